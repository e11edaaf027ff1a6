"""A pipeline: each stage takes, works, sends on and returns, and a stage that is killed loses nothing.

A message is acked when what its handler sent is safe. So `flush` at the source returns when the last stage has it all.
"""

import multiprocessing
import os
import signal

from peerfabric import Node

NUMBERS = 2_000


def square() -> None:
    node = Node("square")
    squares = node.producer("squares", tuple[int, int])

    @node.on_message("numbers")
    def work(number: int) -> None:
        squares.send((number, number * number))

    node.run()


def main() -> None:
    processes = multiprocessing.get_context("spawn")
    stages = [processes.Process(target=square, daemon=True) for _ in range(2)]
    for stage in stages:
        stage.start()

    found: dict[int, int] = {}
    with Node("source") as source, Node("sink") as sink:

        @sink.on_message("squares")
        def keep(square: tuple[int, int]) -> None:
            found[square[0]] = square[1]  # by number: what a killed stage had sent on comes twice
            if len(found) == NUMBERS // 4 and stages[0].pid is not None:
                os.kill(stages[0].pid, signal.SIGKILL)

        numbers = source.producer("numbers", int)
        numbers.send_many(range(NUMBERS))
        numbers.flush(timeout=60)
    print(f"{len(found):,} squares with the sum {sum(found.values()):,}, and one stage of two was killed")
    for stage in stages:
        stage.kill()
        stage.join()


if __name__ == "__main__":
    main()
