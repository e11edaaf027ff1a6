"""Text of metrics, in the format that Prometheus reads, version 0.0.4.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Sequence

from peerfabric.metrics.families import FAMILIES
from peerfabric.metrics.samples import Answered, Sample, samples_of


def render(processes: Sequence[Answered], *, by_pid: bool = False) -> str:
    """Return the metrics of these processes; `by_pid` labels each with the pid of its process."""
    by_family: dict[str, list[Sample]] = {name: [] for name in FAMILIES}
    for sample in samples_of(processes, by_pid=by_pid):
        by_family[sample.family].append(sample)
    lines = []
    for name, samples in by_family.items():
        if samples:
            family = FAMILIES[name]
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            lines += [_line(family.name, sample) for sample in samples]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels.items())
    return (
        f"{name}{sample.suffix}{{{labels}}} {sample.value!r}" if labels else f"{name}{sample.suffix} {sample.value!r}"
    )


def _escaped(value: str) -> str:
    """Text of peers and users as a label's value, which cannot end it nor its line."""
    text = value.encode(errors="replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
