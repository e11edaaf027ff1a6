"""OpenTelemetry: spans and metrics of what is sent and processed, for programs that ask for it."""

from __future__ import annotations

from peerfabric.otel.instrumenting import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
