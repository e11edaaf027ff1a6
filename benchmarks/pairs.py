"""Measure one checkout beside another in the same run: `benchmarks/pairs.py NEW BASE [NAME…] [--rounds N]`.

Both are folders with a virtual environment `.venv` of their own; the sides are those of this folder, so that both are
asked the same. The table shows medians of our own figures, and of the ratio new / base of each round.
"""

from __future__ import annotations

import os
from functools import partial
from statistics import median

from run import CASES, Failed, alternating, arguments, chosen, line, measure, shown


def main() -> None:
    given = arguments("new", "base")
    pythons = [str(folder.absolute() / ".venv" / "bin" / "python") for folder in (given.new, given.base)]
    print(f"medians of {given.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    line("case", "measurement", "", "new", "base", "ratio")
    for name in chosen(given.names):
        case = CASES[name]
        try:
            new, base = alternating(given.rounds, *(partial(measure, case.ours, python) for python in pythons))
        except Failed as error:
            line(name, case.title, "", f"FAILED {error}")
            continue
        for key, _, title in case.aims:
            pairs = [(n[key], b[key]) for n, b in zip(new, base, strict=True)]
            ratios = [n / b for n, b in pairs if b]
            ratio = f"{median(ratios):.2f}" if ratios else ""
            line(name, case.title, title, *(shown(key, median(each)) for each in zip(*pairs, strict=True)), ratio)


if __name__ == "__main__":
    main()
