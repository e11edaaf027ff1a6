"""Who hears SIGINT and SIGTERM, which handlers are there before, meanwhile and after, and what a second one does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from tests.nodes.scripts import BOTH, PRELUDE, awaiting, blocking


def test_a_second_signal_ends_a_close(start: Any) -> None:
    """Closing waits for what nobody takes; SIGTERM kills, Ctrl-C tells what is gone, and ends."""
    terminate, interrupt = signal.SIGTERM, signal.SIGINT
    for first, second in ((terminate, terminate), (interrupt, interrupt), (terminate, interrupt)):
        child = start(
            blocking(
                f"""
node.producer("orders", int).send(1)
say_when(lambda: lifecycle(node).node.life.value == "closing" and len(lifecycle(node).node.pump.turned))
signal.raise_signal({first})
""",
                ", options=Options(drain_timeout=600)",
            )
        )
        assert child.line() == "ready"
        child.signal(second)
        _, err = child.finish()
        assert child.code == (-second if second == terminate else 128 + first), err
        assert ("closed with 1 message waiting" in err) == (second == interrupt)
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "wait", ["list(consumer)", "[item async for item in consumer]", "node.run()", "await node.run()"]
)
def test_a_signal_that_interrupts_no_wait(start: Any, wait: str) -> None:
    """It came just before the main thread began to wait, or to another thread: it is heard all the same."""
    is_async = "await" in wait or "async" in wait
    body = f"""
consumer = node.consumer("orders", int)

def hit():
    while not (waiters(node) or len(lifecycle(node).node.closed)):
        time.sleep(0.001)
    time.sleep(0.1)  # for the step from the gate into the system's wait
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=hit).start()
{wait}
"""
    child = start((awaiting if is_async else blocking)(body))
    _, err = child.finish()
    assert (err, child.code) == ("", 0 if "run" in wait else 143)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_signal_that_interrupts_no_wait_of_the_program(start: Any, lost: int) -> None:
    """A thread hears it that the main thread joins, also if what is to interrupt the main thread comes too early."""
    child = start(
        blocking(f"""
lost, kill = {lost}, signal.pthread_kill

def kill_late(thread, number):
    global lost
    if not lost:
        kill(thread, number)
    lost -= 1

def loop():
    for message in node.consumer("orders", int):
        pass

signal.pthread_kill = kill_late
thread = threading.Thread(target=loop)

def hit():
    while not waiters(node):
        time.sleep(0.001)
    time.sleep(0.1)  # for the step from the gate into the system's wait
    kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=hit).start()
thread.start()
thread.join()
print(lost, signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGURG) is signal.SIG_DFL)
""")
    )
    out, err = child.finish()
    assert (out, err, child.code) == ("-1 -1 True\n", "", 143)


@BOTH
def test_a_signal_that_the_program_handles_interrupts_its_wait(start: Any, number: int) -> None:
    """The main thread is interrupted until it has run, and not until the end of the node."""
    child = start(
        PRELUDE
        + f"""
done = threading.Event()
signal.signal({int(number)}, lambda number, frame: done.set())
with Node(signals=True) as node:
    node.statistics()
    kicks, kill = [], signal.pthread_kill
    def count(thread, number):
        kicks.append(number)
        kill(thread, number)
    signal.pthread_kill = count
    def hit():
        kill(threading.get_ident(), {int(number)})
        before = None
        while not kicks or len(kicks) != before:
            before, looked = len(kicks), threading.Event()
            lifecycle(node).node.pump.look_after(looked.set)
            looked.wait()
    thread = threading.Thread(target=hit)
    thread.start()
    done.wait()
    thread.join()
    print(*map(int, set(kicks)))
"""
    )
    out, err = child.finish()
    assert (out, err, child.code) == (f"{int(signal.SIGURG)}\n", "", 0)


def test_what_wakes_the_main_thread_is_put_back(start: Any) -> None:
    """It stays the program's if the program uses it, in a forked child it is gone, and nothing stays open."""
    child = start(
        PRELUDE
        + """
import socket
NONE = (-1, signal.SIG_DFL)

def there():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd, signal.getsignal(signal.SIGURG)

def count():
    return len(os.listdir("/dev/fd"))

with Node(signals=True) as node:
    node.statistics()
first = count()
with Node(signals=True) as a, Node(signals=True) as b:
    a.statistics()
    ours = there()
    b.statistics()
    assert there() == ours and ours[0] != -1
    if not (pid := os.fork()):
        os._exit(not (there() == NONE and not os.path.exists(f"/dev/fd/{ours[0]}")))
    assert os.waitpid(pid, 0)[1] == 0
    a.close()
    assert there() == ours
assert (there(), count()) == (NONE, first)

async def main():
    async with AsyncNode(signals=True):
        return there()
assert asyncio.run(main()) == NONE  # event loops look up by themselves

near, far = socket.socketpair()
near.setblocking(False)
signal.set_wakeup_fd(near.fileno())
with Node(signals=True) as node:
    node.statistics()
    assert there() == (near.fileno(), signal.SIG_DFL)
assert signal.set_wakeup_fd(-1) == near.fileno()
with Node(signals=True) as node:
    node.statistics()
    signal.set_wakeup_fd(near.fileno())
assert there() == (near.fileno(), signal.SIG_DFL)
signal.set_wakeup_fd(-1)

def own(number, frame):
    pass
signal.signal(signal.SIGURG, own)
with Node(signals=True) as node:
    node.statistics()
    assert there() == (-1, own)
assert (there(), count()) == ((-1, own), first + 2)
print("all back")
"""
    )
    out, err = child.finish()
    assert (out, err, child.code) == ("all back\n", "", 0)


@pytest.mark.parametrize("script", [blocking, awaiting])
def test_a_signal_while_a_node_closes_by_itself(start: Any, script: Any) -> None:
    """It is no reason to stop draining, and the exit code says that it came."""
    wait = "await " if script is awaiting else ""
    waits = "say_when(lambda: lifecycle(node).node.life.value == 'closing')"
    body = f"{wait}node.producer('orders', int).send(1)\n{waits}\n"
    with Node("kitchen") as kitchen:
        child = start(script(body, ", options=Options(drain_timeout=600)"))
        assert child.line() == "ready"
        child.signal(signal.SIGTERM)
        with kitchen.consumer("orders", int).get(timeout=20):
            pass
        _, err = child.finish()
        assert (err, child.code) == ("", 143)


@pytest.mark.parametrize("script", [blocking, awaiting])
def test_another_exception_goes_on(start: Any, script: Any) -> None:
    """What the program itself raises after the signal ends it in its own way."""
    body = "signal.raise_signal(signal.SIGTERM)\nraise ZeroDivisionError\n"
    child = start(script(body))
    _, err = child.finish()
    assert (child.code, err.splitlines()[-1]) == (1, "ZeroDivisionError")


@pytest.mark.parametrize("script", [blocking, awaiting])
def test_handlers_of_the_program_stay(start: Any, script: Any) -> None:
    """Each signal is looked at by itself: here the program has SIGTERM, and the node hears SIGINT."""
    how = "async " if script is awaiting else ""
    own = 'def own(number, frame):\n    print("own", flush=True)\nsignal.signal(signal.SIGTERM, own)\n\n'
    body = f"""
say_when(lambda: waiters(node))
{how}for message in node.consumer("orders", int):
    pass
print(signal.getsignal(signal.SIGTERM) is own, flush=True)
"""
    child = start(script(body).replace(PRELUDE, PRELUDE + own))
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    assert child.line() == "own"
    child.signal(signal.SIGINT)
    out, err = child.finish()
    assert (out, err, child.code) == ("True\n", "", 130)


def test_what_is_ignored_stays_ignored(start: Any) -> None:
    """As Ctrl-C is in the background jobs of a script."""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    body = "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True)\nlist(node.consumer('orders', int))\n"
    child = start(blocking(body).replace(PRELUDE, PRELUDE + ignore))
    assert child.line() == "True"
    child.signal(signal.SIGINT)
    child.signal(signal.SIGTERM)
    _, err = child.finish()
    assert (err, child.code) == ("", 143)


def test_all_handlers_are_back_when_the_last_node_is_closed(start: Any) -> None:
    """Also those of `asyncio.run`; and if another thread closes it, they are back when a signal comes."""
    child = start(
        PRELUDE
        + """
def there():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

first = there()
with Node(signals=True) as a:
    ours = there()
    with Node(signals=True) as b:
        assert there() == ours != first
    assert there() == ours
assert there() == first

async def main():
    before = there()
    assert before != first
    async with AsyncNode(signals=True):
        assert there() == ours
    assert there() == before
asyncio.run(main())
assert there() == first

node = Node(signals=True)
node.statistics()
thread = threading.Thread(target=node.close)
thread.start()
thread.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    assert there() == first
node = Node(signals=True)
node.statistics()
signal.raise_signal(signal.SIGTERM)
assert there() == first
node.close()
print("all back")
"""
    )
    out, err = child.finish()
    assert (out, err, child.code) == ("all back\n", "", 0)


def test_a_node_of_another_thread_hears_nothing(start: Any) -> None:
    """Only the main thread can; a warning says so."""
    child = start(
        PRELUDE
        + """
first = signal.getsignal(signal.SIGTERM)
def work():
    with Node("it", signals=True):
        assert signal.getsignal(signal.SIGTERM) is first
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    )
    out, err = child.finish()
    assert (out, child.code, len(err.splitlines())) == ("", 0, 1)
    assert "start it in the main thread" in err


def test_two_nodes_end_together(start: Any) -> None:
    """Both hear the signal, the one in the main thread and the one in another."""
    child = start(
        PRELUDE
        + """
with Node("a", signals=True) as a, Node("b", signals=True) as b:
    def loop():
        for message in b.consumer("orders", int):
            pass
        print("b over", flush=True)
    thread = threading.Thread(target=loop)
    thread.start()
    say_when(lambda: waiters(a) and waiters(b))
    for update in a.subscriber("prices", int):
        pass
    thread.join()
    print("both over", flush=True)
"""
    )
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    out, err = child.finish()
    assert (out, err, child.code) == ("b over\nboth over\n", "", 143)


@BOTH
@pytest.mark.parametrize("script", [blocking, awaiting])
def test_run_returns_as_ever(start: Any, script: Any, number: int) -> None:
    """It waits for signals itself, and ends well when one comes; other nodes hear that one, too."""
    wait = "await " if script is awaiting else ""
    body = f"""
with Node("other", signals=True) as other:
    say_when(lambda: len(lifecycle(node).node.closed))
    {wait}node.run()
    print("returned", flush=True)
    list(other.consumer("orders", int))
"""
    child = start(script(body))
    assert child.line() == "ready"
    child.signal(number)
    out, err = child.finish()
    assert (out, err, child.code) == ("returned\n", "", 128 + number)

    child = start(script(f"say_when(lambda: len(lifecycle(node).node.closed))\n{wait}node.run()\n"))
    assert child.line() == "ready"
    child.signal(number)
    out, err = child.finish()
    assert (out, err, child.code) == ("", "", 0)


def test_a_forked_child_hears_nothing(start: Any) -> None:
    """SIGTERM ends it as ever, and the parent goes on."""
    child = start(
        blocking("""
ours = signal.getsignal(signal.SIGTERM)
pid = os.fork()
if pid == 0:
    signal.raise_signal(signal.SIGTERM)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signal.getsignal(signal.SIGTERM) is ours, flush=True)
"""),
        PYTHONWARNINGS="ignore::DeprecationWarning",  # from 3.12 on Python warns of forks where threads are
    )
    out, err = child.finish()
    assert (out, err, child.code) == ("-15 True\n", "", 0)


def test_the_first_process_of_a_container(start: Any) -> None:
    """As PID 1 a process has no default actions, and a node with `signals=True` ends it on SIGTERM all the same."""
    unshare = shutil.which("unshare")
    contained = [str(unshare), "--pid", "--fork", "--kill-child"]
    if unshare is None or subprocess.run([*contained, "true"], check=False, capture_output=True).returncode:
        pytest.skip("making a namespace of processes needs root")
    body = "print(os.getpid(), flush=True)\nlist(node.consumer('orders', int))\n"
    again = "if os.getpid() != 1:\n    os.execvp(sys.argv[1], [*sys.argv[1:], sys.executable, __file__])\n\n"
    child = start(blocking(body).replace(PRELUDE, PRELUDE + again), *contained)
    assert child.line() == "1"
    pid = child.process.pid
    first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(first) == 1
    os.kill(int(first[0]), signal.SIGTERM)
    _, err = child.finish()
    assert (err, child.code) == ("", 143)
