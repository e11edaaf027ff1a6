"""Acceptance of a fabric over hosts, point by point: `python -m tests.net.acceptance [POINT ...] [--quick]`, as root.

Each point is some tests, whose figures are shown as they print them; exit code 1 if one fails. `--quick` leaves out
those that take minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from tests.net.hosts import missing

ROOT: Final = Path(__file__).parents[2]
NET: Final = "tests/net"


class Point(NamedTuple):
    """What is to hold, and the tests that show it."""

    what: str
    tests: tuple[str, ...]


POINTS: Final = {
    1: Point(
        "three hosts with one secret find each other, by multicast or from one seed; else doctor says why not",
        (f"{NET}/test_discovery.py", f"{NET}/test_finding.py", f"{NET}/test_doctor.py"),
    ),
    2: Point(
        "cuts, firewalls, loss and delay: nothing lost, little run twice, soon resumed",
        tuple(
            f"{NET}/test_cuts.py::{name}"
            for name in (
                "test_short_cuts",
                "test_cut",
                "test_long_cuts",
                "test_flapping",
                "test_loss",
                "test_delay_and_reorder",
                "test_bulk",
            )
        ),
    ),
    3: Point(
        "a host that vanished, is one-way or rejected: its work elsewhere; who is heard is not gone",
        tuple(
            f"{NET}/test_cuts.py::{name}"
            for name in (
                "test_vanished_host",
                "test_one_way",
                "test_long_one_way",
                "test_firewall_rejects",
                "test_firewall_rejects_for_long",
                "test_killed_workers",
            )
        ),
    ),
    4: Point(
        "one address on all hosts, announced first; impostors; IPv6 only; two subnets",
        tuple(
            f"{NET}/test_endpoints.py::{name}"
            for name in (
                "test_same_address_on_all_hosts",
                "test_docker0_is_not_announced",
                "test_accepting_impostor",
                "test_impostor_at_the_address_of_the_dead",
                "test_outbox_port_closed",
                "test_ipv6_only",
                "test_two_subnets",
            )
        ),
    ),
    5: Point(
        "a wrong, absent or removed secret, a revoked key, one that is not allowed",
        tuple(
            f"{NET}/test_secrets.py::{name}"
            for name in ("test_wrong_secret", "test_no_secret", "test_removed_secret", "test_allow", "test_revoked")
        ),
    ),
    6: Point(
        "what a member with a key of its own cannot do",
        ("tests/nodes/io/test_curve.py", "tests/fabric/link/test_hosts.py"),
    ),
    7: Point("rotation of the secret under load", (f"{NET}/test_secrets.py::test_rotation",)),
    8: Point("strangers at the port and on the segment", (f"{NET}/test_strangers.py",)),
    10: Point(
        "addresses that change under load",
        (
            f"{NET}/test_endpoints.py::test_address_changes_under_load",
            f"{NET}/test_endpoints.py::test_address_of_the_producer_changes",
        ),
    ),
    11: Point(
        "a resolver that never answers",
        (f"{NET}/test_endpoints.py::test_resolver_that_never_answers",),
    ),
    12: Point("two copies of one identity", (f"{NET}/test_secrets.py::test_two_copies_of_one_identity",)),
}
"""Point 9, the cost of encryption, is a matter of `make bench`."""


def run(point: Point, *, quick: bool) -> bool:
    """Run the tests of a point, show their figures, and return whether all passed."""
    marks = "not long" if quick else "long or not long"
    command = [sys.executable, "-m", "pytest", "-s", "-v", "--no-header", "-p", "no:cacheprovider", *point.tests]
    with subprocess.Popen(
        [*command, "-o", f"addopts=--import-mode=importlib --strict-markers -m '{marks}'"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = line.rstrip()
            if found.startswith((NET, "tests/", "PASS", "SLOW", "      ", "E  ", "FAILED", "SKIPPED", "=")):
                print(f"   {found}", flush=True)
    return process.returncode in (0, 5)  # 5: all of them take minutes, and were left out


def main() -> int:
    parser = argparse.ArgumentParser(description="Show what a fabric over hosts is to show, point by point.")
    parser.add_argument("points", type=int, nargs="*", choices=[*POINTS, []], help="which; all without any")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    chosen = parser.parse_args()
    if why := missing():
        print(why)
        return 1
    failed = []
    for number in chosen.points or POINTS:
        point = POINTS[number]
        began_at = time.monotonic()
        print(f"{number}. {point.what}", flush=True)
        if not run(point, quick=chosen.quick):
            failed.append(number)
        print(f"   {'FAILED' if number in failed else 'passed'} after {time.monotonic() - began_at:.0f} s", flush=True)
    print(f"failed: {failed}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
