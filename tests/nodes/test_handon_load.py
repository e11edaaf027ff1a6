"""Hand-on with much to do: circles, fan-outs, a sink that does not take, stages that are killed with all in hand."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from peerfabric import Node
from peerfabric.queue import sources
from peerfabric.queue.runs import DEATHS_TO_ISOLATE, DEPTH_MAX
from tests.nodes import conftest
from tests.nodes.conftest import DEADLINE, eventually


def account_of(node: Any, queue: str) -> Any:
    return next(each for each in node.statistics().consumers if each.queue == queue)


def take_all(consumer: Any) -> None:
    for batch in consumer.batches():
        batch.ack()


STAGE = """
    import sys, threading
    from peerfabric import Node

    node = Node("stage")
    words = node.producer("words", int)
    count = 0

    @node.on_message("pages")
    def work(page: int) -> None:
        global count
        words.send(page)
        count += 1
        if count == int(sys.argv[1]):
            print("done", flush=True)

    with node:
        print("ready", flush=True)
        threading.Event().wait()
    """


@pytest.mark.usefixtures("runtime")
def test_forty_of_forty_reach_the_sink(start: Callable[..., Any]) -> None:
    """Three processes, written as anybody would: when the source says that all is processed, the sink has it."""
    sink = start(
        """
        import time
        from peerfabric import Node

        with Node("sink") as node:
            print("ready", flush=True)
            for message in node.consumer("words", int):
                with message as word:
                    time.sleep(0.01)
                    print(word, flush=True)
        """
    )
    assert sink.line() == "ready"
    stage = start(STAGE, "40")
    assert stage.line() == "ready"
    with Node("source") as source:
        pages = source.producer("pages", int)
        pages.send_many(range(40))
        assert stage.line() == "done"
        stage.signal(signal.SIGKILL)  # most of what it has sent on is in its memory
        other = start(STAGE, "40")
        assert other.line() == "ready"
        pages.flush(DEADLINE)
        other.signal(signal.SIGKILL)
    seen: set[int] = set()
    while len(seen) < 40:
        seen.add(int(sink.line()))
    assert seen == set(range(40))


@pytest.mark.usefixtures("runtime")
def test_deaths_of_what_has_run_are_nobodys_fault(start: Callable[..., Any]) -> None:
    """Stages are killed, as often as isolates a message, when all messages only wait for the sink: none is isolated."""
    count = 2_000
    with Node("source") as source, Node("sink") as sink:
        pages = source.producer("pages", int)
        pages.send_many(range(count))
        end = source._async._lifecycle.handles.producers["pages"].end
        for _ in range(DEATHS_TO_ISOLATE):
            stage = start(STAGE, str(count))
            assert (stage.line(), stage.line()) == ("ready", "done")
            eventually(lambda: source.statistics().producers[0].handed_on == count, "the news of that")
            stage.signal(signal.SIGKILL)
            eventually(lambda: not end.consumers, "the end of a stage")
        with source._async._context.pump.lock:
            assert {(run.deaths, run.attempt) for run in end._runs()} == {(0, 1)}
        stage = start(STAGE, "0")
        threading.Thread(target=take_all, args=(sink.consumer("words", int),)).start()
        pages.flush(DEADLINE)
        account = source.statistics().producers[0]
        assert (account.acked, account.dead_lettered) == (count, 0)


@pytest.mark.usefixtures("runtime")
def test_a_sink_that_does_not_take_stops_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads never wait for it. When many messages have run, each producer is granted one more at a time."""
    most, count = 500, 600
    monkeypatch.setattr(sources, "DEFERRED_MAX", most)
    with Node("source") as source, Node("sink") as sink, Node("stage") as stage:
        pages, words = source.producer("pages", int), stage.producer("words", int)
        threads: Counter[str] = Counter()

        @stage.on_message("pages")
        def work(page: int) -> None:
            words.send(page)
            threads[threading.current_thread().name] += 1

        pages.send_many(range(count))
        eventually(lambda: account_of(stage, "pages").handed_on == count, "the end of the stage's work")
        assert sum(threads.values()) == count
        assert source.statistics().producers[0].acked == 0
        threading.Thread(target=take_all, args=(sink.consumer("words", int),)).start()
        pages.flush(DEADLINE)


def crawl(pages: int, *, crawlers: int) -> int:
    """A tree of so many pages, whose links the crawlers send to the queue that they take from.

    Returns:
        How many pages had run and waited at one time, of those looked at.
    """
    seen: Counter[int] = Counter()
    most = 0
    nodes = [Node(f"crawler-{number}") for number in range(crawlers)]

    def crawler(node: Node) -> None:
        links = node.producer("web", int)

        @node.on_message("web")
        def crawl(page: int) -> None:
            nonlocal most
            seen[page] += 1
            for link in (2 * page, 2 * page + 1):
                if link < pages:
                    links.send(link)
            if page % 64 == 0:
                most = max(most, account_of(node, "web").handed_on)

    for node in nodes:
        crawler(node)
    with Node("seed") as seed:
        for node in nodes:
            node.statistics()  # starts it
        seed.producer("web", int).send(1)
        eventually(lambda: len(seen) == pages - 1, "the end of the web")
        seed.producer("web", int).flush(DEADLINE)
        eventually(lambda: all(p.in_flight + p.waiting == 0 for n in nodes for p in n.statistics().producers))
        for node in nodes:
            node.close()
    assert set(seen) == set(range(1, pages))
    return most


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("crawlers", [1, 3])
def test_a_crawler_feeds_its_own_queue(crawlers: int) -> None:
    """It ends, and no page waits for all that is below it."""
    crawl(4_096, crawlers=crawlers)


@pytest.mark.long
@pytest.mark.usefixtures("runtime")
def test_a_crawler_with_a_million_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""
    for module in (sys.modules[__name__], conftest):
        monkeypatch.setattr(module, "DEADLINE", 600.0)
    assert crawl(1_000_000, crawlers=3) < 100_000


@pytest.mark.usefixtures("runtime")
def test_a_circle_that_never_ends_is_flat(caplog: pytest.LogCaptureFixture) -> None:
    """A message that goes round for ever keeps no more inputs waiting than may wait for each other; that is told."""
    rounds, most = 0, 0
    nodes = [Node(f"node-{number}") for number in range(3)]
    over = threading.Event()

    def part(number: int) -> None:
        onward = nodes[number].producer(f"circle.{(number + 1) % 3}", int)

        @nodes[number].on_message(f"circle.{number}")
        def pass_on(count: int) -> None:
            nonlocal rounds, most
            rounds = count
            if not over.is_set():
                onward.send(count + 1)
            if count % 50 == 0:
                most = max(most, sum(each.handed_on for node in nodes for each in node.statistics().consumers))

    for number in range(3):
        part(number)
    with nodes[0], nodes[1], nodes[2], Node("start") as start:
        start.producer("circle.0", int).send(1)
        eventually(lambda: rounds > 1_000, "a thousand steps")
        over.set()
    # The three are looked at one after the other, and it goes round meanwhile: some are seen twice.
    assert most <= 2 * DEPTH_MAX
    warned = [record.getMessage() for record in caplog.records if "leads back to itself" in record.getMessage()]
    assert 1 <= len(warned) == len(set(warned)) <= 3


def fan_out(inputs: int, outputs: int, threads: int) -> None:
    """Each of `inputs` sends `outputs` words, one by one, `threads` at the same time; all counted at the end."""
    seen: Counter[int] = Counter()
    with Node("source") as source, Node("sink") as sink, Node("stage") as stage:
        pages, words = source.producer("pages", int), stage.producer("words", int)

        @stage.on_message("pages", concurrency=threads)
        def work(page: int) -> None:
            for number in range(outputs):
                words.send(page * outputs + number)

        def take() -> None:
            for batch in sink.consumer("words", int).batches(max_size=10_000):
                with batch as bodies:
                    seen.update(bodies)

        threading.Thread(target=take).start()
        pages.send_many(range(inputs))
        pages.flush(600)
        assert len(seen) == inputs * outputs
        assert set(seen.values()) == {1}
        assert account_of(stage, "pages").handed_on == 0
        assert source.statistics().producers[0].acked == inputs


@pytest.mark.usefixtures("runtime")
def test_a_fan_out_is_exact() -> None:
    """10,000 words of 100 pages at the same time."""
    fan_out(100, 100, 16)


@pytest.mark.long
@pytest.mark.usefixtures("runtime")
def test_a_large_fan_out_is_exact() -> None:
    """A million words of 1,000 pages at the same time."""
    fan_out(1_000, 1_000, 1_000)
