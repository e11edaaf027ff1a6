"""Pipeline over hosts with exact accounting: who ran which message when, and which of them more than once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.net.hosts import Host, Lan, Running, wait_for

WORKER: Final = Path(__file__).with_name("worker.py")
NODE: Final[dict[str, Any]] = {
    "reach": "lan",
    "secret": "insecure",
    "listen": "tcp://*:7700",
    "peers": ["tcp://10.77.0.1:7700"],
    "discovery": ["static", "exchange"],
}
STARTED_AFTER_CUT: Final = 2.6
"""Seconds after a cut in which a worker may still start what it holds: the fence, and what its clocks differ by."""


ACK_ON_ITS_WAY: Final = 0.25
"""Seconds between the end of a run and the cut in which its ack may not have arrived yet, on a busy machine."""
UP: Final = ("up", "suspect", "one-way", "hung")
"""States in which the messages that a peer holds are left to it."""


class Run(NamedTuple):
    """One run of a message; `ended_at` is None if it has not ended."""

    number: int
    host: str
    started_at: float
    ended_at: float | None


class Cut(NamedTuple):
    """From when until when a host was cut off. A message that it ran meanwhile may run elsewhere, too."""

    host: str
    at: float
    healed_at: float


class Outcome(NamedTuple):
    """What came of it."""

    sent: int
    runs: list[Run]
    twice: list[int]
    account: dict[str, Any]


class Pipeline:
    """A producer, which is also the collector, on the first host, and a worker on each of the others.

    Args:
        work: Seconds that a message takes, one after the other.
        in_hand: Seconds of work that a worker keeps in hand.
        rate, burst: Messages a second, and how many more at the beginning, so that there is something to keep in hand.
        node: Arguments of all nodes.
    """

    def __init__(
        self,
        lan: Lan,
        *,
        work: float = 0.1,
        in_hand: float = 2.0,
        rate: float = 14.0,
        burst: int = 60,
        body_bytes: int = 0,
        **node: Any,
    ) -> None:
        self.lan = lan
        self._node = NODE | node
        self._options: dict[str, Any] = {
            "work": work,
            "rate": rate,
            "burst": burst,
            "body_bytes": body_bytes,
            "collect_within": 30.0,
            "hurry": str(lan.folder / "hurry"),
            "options": {"work_horizon": in_hand, "drain_timeout": 1.0},
        }
        self.processes: dict[str, Running] = {}

    def start(self, *hosts: Host, **nodes: dict[str, Any]) -> float:
        """Start a node on each host and return when the last of them was open.

        Args:
            nodes: Arguments of `Node` by the name of the host, in addition to those of all.
        """
        for host in hosts:
            role = "produce" if host is hosts[0] else "consume"
            self.start_one(role, host, **nodes.get(host.name, {}))
        for process in self.processes.values():
            process.until("ready")
        return time.monotonic()

    def start_one(self, role: str, host: Host, name: str = "", work: float | None = None, **node: Any) -> Running:
        """Start one more node, named like its host or otherwise; `work` is what a message takes, if not as usual."""
        name = name or host.name
        journal = str(self.lan.folder / f"{name}.journal")
        options = self._options | {"node": self._node | node, "journal": journal}
        options["work"] = options["work"] if work is None else work
        made = self.processes[name] = host.start(WORKER, role, name, json.dumps(options))
        return made

    # What happens

    def journal(self, host: str) -> list[list[str]]:
        """What a host has written down so far."""
        path = self.lan.folder / f"{host}.journal"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> list[Run]:
        """Every run of every message, in the order in which they started."""
        found = []
        for host in self.processes:
            running: dict[int, float] = {}
            for kind, number, *_, at in self.journal(host):
                if kind == "S":
                    if int(number) in running:  # it ran before, and never ended
                        found.append(Run(int(number), host, running[int(number)], None))
                    running[int(number)] = float(at)
                elif kind == "E":
                    found.append(Run(int(number), host, running.pop(int(number)), float(at)))
            found += [Run(number, host, at, None) for number, at in running.items()]
        return sorted(found, key=lambda run: run.started_at)

    def beliefs(self, host: str) -> list[tuple[float, str, str]]:
        """What a host believed of its peers: instants, names and `STATE:REASON`, as they changed."""
        return [(float(at), name, state) for kind, name, state, at in self.journal(host) if kind == "P"]

    def started_since(self, host: str, at: float) -> float | None:
        """When the first message started on a host after an instant."""
        return next((run.started_at for run in self.runs() if run.host == host and run.started_at > at), None)

    def wait_until_flowing(self, *names: str, count: int = 15, within: float = 60.0) -> None:
        """Wait until each of some workers has started so many messages, whatever it had started before."""
        before = self._counts()

        def flows() -> bool:
            now = self._counts()
            return all(now.get(name, 0) >= before.get(name, 0) + count for name in names)

        wait_for(flows, f"{count} messages at each of {names}", within)

    def _counts(self) -> dict[str, int]:
        return {name: sum(line[0] == "S" for line in self.journal(name)) for name in self.processes}

    def resumed(self, host: str, healed_at: float, within: float = 60.0) -> float:
        """Wait until a host starts a message after `healed_at`; return how many seconds later that was."""
        wait_for(lambda: self.started_since(host, healed_at), f"a message on {host} after healing", within)
        at = self.started_since(host, healed_at)
        assert at is not None
        return at - healed_at

    def given_up(self, host: str, since: float, at: str = "a") -> list[float]:
        """When a node gave up its peer on `host`, as seconds after an instant: it has been up and is not any more."""
        found, was_up = [], False
        for instant, name, state in self.beliefs(at):
            if name == host:
                is_up = state.partition(":")[0] in UP
                if was_up and not is_up and instant > since:
                    found.append(instant - since)
                was_up = is_up
        return found

    def until_given_up(self, host: str, since: float) -> float:
        """Wait until the producer says that it gave up its peer on `host`; return how long after `since` that was."""
        wait_for(lambda: self.given_up(host, since), f"that {host} is given up")
        return self.given_up(host, since)[0]

    def elsewhere(self, host: str, since: float) -> float:
        """Wait until a message that was with `host` starts on another one; return how long after `since` that was.

        First deliveries come to a worker in their order, so what starts after a message with a higher number has been
        with somebody else before. All starts before `since` are left out.
        """
        found: list[float] = []

        def has_started() -> bool:
            highest: dict[str, int] = {}
            for run in self.runs():
                if run.host != host and run.started_at > since and run.number < highest.get(run.host, 0):
                    found.append(run.started_at - since)
                    return True
                highest[run.host] = max(run.number, highest.get(run.host, 0))
            return False

        wait_for(has_started, f"a message that was with {host} elsewhere")
        return found[0]

    # The end

    def finish(self, producer: str = "a", within: float = 120.0) -> Outcome:
        """Stop sending, wait until all is settled, and count. What is left takes no more time than it must.

        Raises:
            AssertionError: A message never ran, or the account does not close.
        """
        process = self.processes[producer]
        (self.lan.folder / "hurry").touch()
        process.tell("stop")
        sent = int(process.until("sent", within))
        account = json.loads(process.until("settled", within))
        collected = int(process.until("collected", within))
        runs = self.runs()
        times: dict[int, int] = dict.fromkeys(range(sent), 0)
        completed = set()
        for run in runs:
            times[run.number] += 1
            if run.ended_at is not None:
                completed.add(run.number)
        lost = times.keys() - completed
        assert not lost, f"{len(lost)} of {sent} messages never ran to their end, one is {min(lost)}"
        assert account["closes"]
        assert account["acked"] == sent == account["accepted"]
        assert collected == sent
        return Outcome(sent, runs, sorted(number for number, count in times.items() if count > 1), account)


def unexcused(outcome: Outcome, cuts: list[Cut]) -> list[list[Run]]:
    """The messages that ran twice although none of their runs was cut off.

    One that is running at a cut may run again, since its ack cannot arrive, and one that its worker starts before its
    fence ends.
    """
    found = []
    for number in outcome.twice:
        runs = [run for run in outcome.runs if run.number == number]
        if not any(_is_excused(run, cut) for run in runs for cut in cuts):
            found.append(runs)
    return found


def _is_excused(run: Run, cut: Cut) -> bool:
    ended_at = run.ended_at if run.ended_at is not None else float("inf")
    is_late = ended_at >= cut.at - ACK_ON_ITS_WAY
    return run.host == cut.host and run.started_at <= cut.at + STARTED_AFTER_CUT and is_late


def figure(what: str, seconds: float, bound: float) -> None:
    """Print a figure beside its bound on a quiet machine, and hold it to twice that and a second."""
    print(f"{'PASS' if seconds <= bound else 'SLOW'}  {what}: {seconds:.2f} s (at most {bound:g} s)")
    assert seconds <= 2 * bound + 1, what


def count(what: str, found: object) -> None:
    """Print a figure without a bound."""
    print(f"      {what}: {found}")
