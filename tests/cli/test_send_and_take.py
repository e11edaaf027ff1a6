"""`peerfabric send` and `peerfabric take`, as processes."""

from __future__ import annotations

import json
import signal
from typing import Any

from peerfabric import Node
from tests.cli.conftest import DEADLINE, Start, ended


def test_what_is_sent_is_taken(start: Start) -> None:
    """One body goes from one command to another, and both say that it worked."""
    taking, sending = start("take", "orders"), start("send", "orders", '{"id": 1}')
    assert ended(taking) == (0, '{"id":1}\n', "")
    assert ended(sending) == (0, "1 of 1 message processed\n", "")


def test_lines_become_messages(start: Start) -> None:
    """Each line of standard input is a message, in order; empty lines are none. JSON output is one object a line."""
    taking, sending = start("take", "q", "-n", "3", "-o", "json"), start("send", "q", "-", "-o", "json", "--name", "me")
    code, out, _ = ended(sending, '1\n\n{"a": null}\n"x"\n')
    assert (code, json.loads(out)["acked"]) == (0, 3)
    code, out, _ = ended(taking)
    taken = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(m["body"], m["sender"], m["attempt"], m["queue"]) for m in taken] == [
        (1, "me", 1, "q"),
        ({"a": None}, "me", 1, "q"),
        ("x", "me", 1, "q"),
    ]


def test_a_bad_line_is_named(start: Start, node: Node) -> None:
    """The lines before it are processed, it is named by its number, and nothing after it is sent."""
    sending = start("send", "q")
    assert sending.stdin is not None
    sending.stdin.write("1\n2\nthree\n4\n")
    sending.stdin.close()
    sending.stdin = None
    consumer = node.consumer("q", Any)
    for expected in (1, 2):
        with consumer.get(DEADLINE) as body:
            assert body == expected
    code, out, err = ended(sending)
    assert (code, out) == (1, "2 of 2 messages processed\n")
    assert "line 3 is not JSON" in err
    assert len(err.splitlines()) == 1


def test_what_nobody_takes_in_time_expires(start: Start) -> None:
    """The command does not wait for a consumer any longer, and says what became of it."""
    code, out, err = ended(start("send", "q", "1", "--ttl", "0.2", "-o", "json", "--timeout", "none"))
    assert (code, json.loads(out)["expired"]) == (1, 1)
    assert "1 of 1 message expired before a consumer was handed them" in err
    code, _, err = ended(start("send", "q", "1", "--ttl", "-1"))
    assert code == 2
    assert "ttl=-1.0 is not a possible number of seconds" in err


def test_a_line_leaves_before_the_next_is_typed(start: Start, node: Node) -> None:
    """Standard input is a stream: nobody waits for its end."""
    sending = start("send", "q", "-")
    assert sending.stdin is not None
    sending.stdin.write("1\n")
    sending.stdin.flush()
    with node.consumer("q", Any).get(DEADLINE) as body:
        assert body == 1
    assert ended(sending) == (0, "1 of 1 message processed\n", "")


def test_nobody_consumes(start: Start) -> None:
    """The command says so, says what to do, and that the message is gone."""
    code, out, err = ended(start("send", "orders", "1", "--timeout", "0.5"))
    assert (code, out) == (3, "")
    assert err.startswith("peerfabric: nobody consumes queue 'orders' in fabric 'cli': 1 message")
    assert "peerfabric take orders" in err
    assert len(err.splitlines()) == 1


def test_a_rejected_message_is_a_failure(start: Start, node: Node) -> None:
    """Given up is not processed: exit code 1, with the consumer's reason."""
    sending = start("send", "q", "1")
    node.consumer("q", Any).get(DEADLINE).reject("no such dish")
    code, out, err = ended(sending)
    assert (code, out) == (1, "0 of 1 message processed\n")
    assert "no such dish" in err


def test_nothing_to_take(start: Start) -> None:
    """Nothing within the time is exit code 3."""
    code, out, err = ended(start("take", "q", "--timeout", "0.2"))
    assert (code, out) == (3, "")
    assert "0 messages came" in err


def test_taking_until_there_is_no_more(start: Start, node: Node) -> None:
    """With -n 0 the end of the messages is a good end."""
    node.producer("q", int).send_many([1, 2, 3])
    assert ended(start("take", "q", "-n", "0", "--timeout", "2")) == (0, "1\n2\n3\n", "")


def test_a_closed_pipe_gives_the_message_back(start: Start, node: Node) -> None:
    """When nobody reads the output any more, what is in hand goes to another consumer, as its first attempt."""
    taking = start("take", "q", "-n", "0")
    assert taking.stdout is not None
    producer = node.producer("q", int)
    producer.send(1, confirm="processed", timeout=DEADLINE)
    taking.stdout.close()
    taking.stdout = None
    producer.send(2)
    assert taking.wait(DEADLINE) == 141
    assert taking.stderr is not None
    assert taking.stderr.read() == ""
    message = node.consumer("q", int).get(DEADLINE)
    with message as body:
        assert (body, message.attempt) == (2, 1)


def test_signals_end_it_quietly(start: Start, node: Node) -> None:
    """Ctrl-C, SIGTERM and a closed terminal: the usual exit code, no traceback, and the node has left."""
    producer = node.producer("q", int)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        if signal.getsignal(number) is signal.SIG_IGN:  # under nohup, and so in what we start
            continue
        taking = start("take", "q", "-n", "0")
        producer.send(1, confirm="processed", timeout=DEADLINE)
        taking.send_signal(number)
        assert ended(taking) == (code, "1\n", "")


def test_wrong_arguments(start: Start) -> None:
    """Exit code 2 and one line or click's usage, never a traceback."""
    for arguments in (
        ["send", "q", "{bad"],
        ["send", "no spaces", "1"],
        ["take", "q", "--timeout", "soon"],
        ["take", "q", "--peer", "nowhere"],
        ["take"],
        ["fetch"],
    ):
        code, out, err = ended(start(*arguments))
        assert (code, out) == (2, ""), arguments
        assert err
        assert "Traceback" not in err
