"""Spans and metrics of OpenTelemetry, of real nodes in one process."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from peerfabric import AsyncNode, AsyncProducer, Batch, EncodeError, Message, Node, Producer
from peerfabric.otel import instrument, uninstrument


class Seen:
    """What was exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def attributes(self, name: str) -> list[dict[str, Any]]:
        return [dict(span.attributes or {}) for span in self.spans(name)]

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Of counters the value, of histograms how many were recorded, by name, queue and error."""
        data: Any = self._reader.get_metrics_data()
        found: dict[tuple[str, str, str], int] = {}
        for resource in data.resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.data.data_points:
                    queue, error = (point.attributes.get(n, "") for n in ("messaging.destination.name", "error.type"))
                    found[metric.name, queue, error] = point.value if hasattr(point, "value") else point.count
        return found


@pytest.fixture
def seen() -> Iterator[Seen]:
    found = Seen()
    instrument(found.tracers, found.meters)
    yield found
    uninstrument()


@pytest.fixture(autouse=True)
def _own_fabric(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(tmp_path))


def test_one_message(seen: Seen) -> None:
    """The span that processes a message is the child of the one that sent it, and linked to it."""
    with Node("desk") as node:
        receipt = node.producer("orders", int).send(1, headers={"x": "y"})
        message = node.consumer("orders", int).get(timeout=20)
        with message:
            current = trace.get_current_span().get_span_context()
            assert message.headers["x"] == "y"
        assert not trace.get_current_span().get_span_context().is_valid
    [sent], [processed] = seen.spans("send orders"), seen.spans("process orders")
    assert (sent.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert processed.context == current
    assert processed.parent is not None
    assert processed.parent.span_id == sent.context.span_id
    assert [link.context.span_id for link in processed.links] == [sent.context.span_id]
    common = {
        "messaging.system": "peerfabric",
        "messaging.destination.name": "orders",
        "messaging.message.id": receipt.id,
        "messaging.client.id": "desk",
    }
    operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert dict(sent.attributes or {}) == common | operation
    operation = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert dict(processed.attributes or {}) == common | operation | {"peerfabric.message.attempt": 1}
    assert seen.counts() == {
        ("messaging.client.sent.messages", "orders", ""): 1,
        ("messaging.client.consumed.messages", "orders", ""): 1,
        ("messaging.process.duration", "orders", ""): 1,
    }


def test_links_only() -> None:
    """With parent=False what processes begins a trace of its own, as queues may hold a message for hours."""
    seen = Seen()
    instrument(seen.tracers, seen.meters, parent=False)
    try:
        with Node("desk") as node:
            node.producer("orders", int).send(1)
            with node.consumer("orders", int).get(timeout=20):
                pass
    finally:
        uninstrument()
    [sent], [processed] = seen.spans("send orders"), seen.spans("process orders")
    assert processed.parent is None
    assert [link.context.span_id for link in processed.links] == [sent.context.span_id]


def test_a_pipeline_is_one_trace(seen: Seen) -> None:
    """What a handler sends is a child of what it processes; a `with` of the same message adds no span."""
    done = threading.Event()
    with Node("a") as node:
        pages = node.producer("pages", str)

        @node.on_message("urls")
        def fetch(url: str, message: Message[str]) -> None:
            with message:
                pages.send(url)

        @node.on_message("pages")
        def index(page: str) -> None:
            done.set()

        node.producer("urls", str).send("x")
        assert done.wait(20)
    names = ["send urls", "process urls", "send pages", "process pages"]
    spans = [seen.spans(name) for name in names]
    assert [len(found) for found in spans] == [1, 1, 1, 1]
    chain = [found[0] for found in spans]
    assert len({span.context.trace_id for span in chain}) == 1
    assert [span.parent.span_id for span in chain[1:] if span.parent] == [span.context.span_id for span in chain[:-1]]


def test_failures(seen: Seen) -> None:
    """An error is in the span of each attempt, and in the metrics by its type."""
    over = threading.Event()
    with Node("a") as node:

        @node.on_message("jobs")
        def work(job: int, message: Message[int]) -> None:
            if message.attempt == 1:
                raise KeyError("no such job")
            over.set()

        jobs = node.producer("jobs", int)
        jobs.send(1, confirm="processed", timeout=20)
        assert over.is_set()
        with pytest.raises(EncodeError):
            jobs.send("one")  # type: ignore[arg-type]
    first, second = seen.spans("process jobs")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [event.name for event in first.events] == ["exception"]
    assert [each.get("error.type") for each in seen.attributes("process jobs")] == ["KeyError", None]
    assert [each.get("error.type") for each in seen.attributes("send jobs")] == [None, "EncodeError"]
    counts = seen.counts()
    assert counts["messaging.client.consumed.messages", "jobs", "KeyError"] == 1
    assert counts["messaging.client.consumed.messages", "jobs", ""] == 1
    assert counts["messaging.client.sent.messages", "jobs", ""] == 1


def test_batches(seen: Seen) -> None:
    """One span for all that is sent at once, and one for each batch that is processed."""
    with Node("a") as node:
        assert node.producer("jobs", int).send_many([1, 2, 3]) == 3
        taken = 0
        for batch in node.consumer("jobs", int).batches(3, 0.2):
            with batch as bodies:
                taken += len(bodies)
            if taken == 3:
                break
    assert [each["messaging.batch.message_count"] for each in seen.attributes("send jobs")] == [3]
    assert sum(each["messaging.batch.message_count"] for each in seen.attributes("process jobs")) == 3
    assert seen.counts()["messaging.client.consumed.messages", "jobs", ""] == 3


def test_coroutines(seen: Seen) -> None:
    """The same names in an event loop, where calls of handlers take turns."""

    async def main() -> None:
        async with AsyncNode("a") as node:
            both = asyncio.Barrier(3)

            @node.on_message("jobs", concurrency=2)
            async def work(job: int) -> None:
                with trace.get_tracer("", tracer_provider=seen.tracers).start_as_current_span(f"inner {job}"):
                    await both.wait()

            jobs = node.producer("jobs", int)
            for job in (1, 2):
                await jobs.send(job)
            await both.wait()
            await jobs.flush(timeout=20)
            await jobs.send_many([])

    asyncio.run(main())
    assert len(seen.spans("process jobs")) == 2
    sent = {span.context.span_id: span for span in seen.spans("send jobs")}
    for span in seen.spans("process jobs"):
        assert span.parent is not None
        assert span.parent.span_id in sent
        inner = [each for n in (1, 2) for each in seen.spans(f"inner {n}")]
        assert len([each for each in inner if each.parent and each.parent.span_id == span.context.span_id]) == 1


def test_what_is_not_recorded_carries_no_context() -> None:
    """Outside of a sample, a message has no header of ours, so that runs of messages stay joined."""
    instrument(trace.NoOpTracerProvider())
    try:
        with Node("a") as node:
            node.producer("jobs", int).send(1)
            with node.consumer("jobs", int).get(timeout=20) as _:
                pass
            node.producer("jobs", int).send(2)
            message = node.consumer("jobs", int).get(timeout=20)
            assert message.headers == {}
            message.ack()
    finally:
        uninstrument()


def test_uninstrumented_is_as_before() -> None:
    """Everything that was replaced is back, also after two calls."""
    methods = [(Producer, "send"), (AsyncProducer, "send"), (AsyncProducer, "send_many"), (Message, "__exit__")]
    methods += [(Batch, "__enter__"), (Producer, "send_many")]
    before = [kind.__dict__[name] for kind, name in methods]
    instrument()
    replaced = [kind.__dict__[name] for kind, name in methods]
    assert [inspect.signature(a) for a in replaced] == [inspect.signature(b) for b in before]
    instrument()
    uninstrument()
    uninstrument()
    assert [kind.__dict__[name] for kind, name in methods] == before
