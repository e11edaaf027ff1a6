"""Coverage-guided fuzzing of all targets with atheris: `make fuzz`, or

    python tests/fuzz/run.py --inputs 5000000 --targets header engine

Each target runs in a process of its own. An input that fails is kept in build/fuzz/, and the exit status is 1; put it
into `FAILED_ONCE` of tests/fuzz/test_targets.py once its cause is repaired.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / "build" / "fuzz"
"""Inputs that reach something new, and those that fail."""
INPUTS = 5_000_000
SHARES = {"engine": 0.02, "calls": 0.02, "published": 0.02, "config": 0.02}
"""Of all inputs, for targets that are slow; the others share the rest."""
SECONDS_EACH_MAX = 20
"""An input that takes longer is taken for one that hangs."""


def _names() -> list[str]:
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def _run_one(name: str, inputs: int, seconds: int, kept: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    atheris = import_module("atheris")  # by name: it is installed where it is used only, and has no types
    with atheris.instrument_imports(include=["peerfabric"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    target = TARGETS[name]
    corpus = kept / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for at, seed in enumerate(SEEDS.get(name, [])):
        (corpus / f"seed-{at}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-runs={inputs}",
        f"-timeout={SECONDS_EACH_MAX}",
        f"-artifact_prefix={corpus}-",
        "-max_len=4096",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
        *([f"-max_total_time={seconds}"] if seconds else []),
    ]
    atheris.Setup(arguments, target)
    atheris.Fuzz()


def main() -> int:
    """Fuzz the targets one after another and say what came of it."""
    parser = argparse.ArgumentParser(description="Fuzz every reader of foreign bytes.")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="over all targets (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=0, help="for each target at most (default: no limit)")
    parser.add_argument("--targets", nargs="*", default=_names(), choices=_names(), help="some of them")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the corpus (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        _run_one(asked.one, asked.inputs, asked.seconds, asked.kept)
    slow = sum(SHARES.get(name, 0.0) for name in asked.targets)
    fast = sum(name not in SHARES for name in asked.targets)
    failed = []
    for name in asked.targets:
        share = SHARES.get(name, (1.0 - slow) / fast if fast else 0.0) if fast else 1.0 / len(asked.targets)
        inputs, began = round(asked.inputs * share), time.monotonic()
        limits = ["--inputs", str(inputs), "--seconds", str(asked.seconds), "--kept", str(asked.kept)]
        command = [sys.executable, __file__, "--one", name, *limits]
        run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
        done = [line.split()[-1] for line in run.stderr.splitlines() if "number_of_executed_units" in line]
        count = int(done[0]) if done else 0
        if run.returncode:
            failed.append(name)
            print(run.stdout[-2000:], run.stderr[-4000:], sep="\n", file=sys.stderr)
        outcome = "FAILED" if run.returncode else "ok"
        print(f"{name:<16} {count:>10,} inputs in {time.monotonic() - began:6.0f} s  {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    sys.exit(main())
