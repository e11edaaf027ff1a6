"""Instrumenting: the public calls that send and process, each with a span around it.

They are replaced on their classes for as long as it is wanted, so a program that does not ask for it pays nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.propagate import extract, inject

from peerfabric import AsyncProducer, Batch, Message, Producer, __version__
from peerfabric.nodes.handler_tasks import TaskHandler
from peerfabric.nodes.handler_threads import Handler
from peerfabric.otel import names

_replaced: Final[list[tuple[type, str, Any]]] = []
"""The methods as they were."""
_sends: ContextVar[bool] = ContextVar("peerfabric_otel_sends", default=False)
"""A call of `send` is traced already, and makes another one."""


def instrument(
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    *,
    parent: bool = True,
) -> None:
    """Trace every message that this process sends and processes from now on.

    Call it once, before handlers start: tasks of an `AsyncNode` that run already are not traced. A second call
    replaces the first.

    - `send QUEUE`, of kind PRODUCER, around each `send` and `send_many`. If it is recorded, its context travels in the
      headers `traceparent` and `tracestate` of a `send`; such messages are not joined with others, which costs
      throughput. `send_many` takes no headers, so what it sends begins traces of its own.
    - `process QUEUE`, of kind CONSUMER, around each call of a handler of messages, and each `with message` and `with
      batch`. It is linked to the span that sent it.
    - the metrics `messaging.client.sent.messages`, `messaging.client.consumed.messages`, `messaging.process.duration`.

    Args:
        tracer_provider, meter_provider: None: the global ones.
        parent: Spans that process one message are also children of the one that sent it.

    Raises:
        ImportError: The extra `otel` is not installed.
    """
    uninstrument()
    traced = _Traced(tracer_provider, meter_provider, parent=parent)
    _replace(Producer, "send", traced.send)
    _replace(AsyncProducer, "send", traced.asend)
    _replace(Producer, "send_many", traced.send_many)
    _replace(AsyncProducer, "send_many", traced.asend_many)
    for taken in (Message, Batch):
        _replace(taken, "__enter__", traced.enter)
        _replace(taken, "__exit__", traced.leave)
    _replace(Handler, "_call", traced.call)
    _replace(Handler, "_failed", traced.failed)
    _replace(TaskHandler, "_await", traced.acall)


def uninstrument() -> None:
    """Trace nothing any more."""
    while _replaced:
        kind, name, before = _replaced.pop()
        setattr(kind, name, before)


def _replace(kind: type, name: str, around: Callable[[Any], Any]) -> None:
    before = kind.__dict__[name]
    _replaced.append((kind, name, before))
    setattr(kind, name, functools.wraps(before)(around(before)))


class _Processing:
    """The span of what is being processed, which is the current one meanwhile."""

    def __init__(self, span: trace.Span, queue: str, count: int) -> None:
        self.span = span
        self.queue, self.count = queue, count
        self.token = contexts.attach(trace.set_span_in_context(span))
        self.began = perf_counter()
        self.depth = 1
        """How often it was begun and not ended: a handler may use `with message`."""
        self.failed = ""
        """The type of the error."""

    def fail(self, error: BaseException) -> None:
        self.failed = type(error).__qualname__
        self.span.record_exception(error)
        self.span.set_attribute(names.ERROR_TYPE, self.failed)
        self.span.set_status(trace.StatusCode.ERROR, str(error)[:1000])


_processing: ContextVar[dict[int, _Processing] | None] = ContextVar("peerfabric_otel_processing", default=None)
"""By the identity of the message or batch, which lives as long as its entry."""


class _Traced:
    """The methods with spans around them; each takes what it replaces."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
        *,
        parent: bool,
    ) -> None:
        self._tracer = trace.get_tracer("peerfabric", __version__, tracer_provider)
        meter = metrics.get_meter("peerfabric", __version__, meter_provider)
        self._sent = meter.create_counter(names.SENT, "{message}", "Messages that a producer has accepted.")
        self._consumed = meter.create_counter(names.CONSUMED, "{message}", "Messages that were processed, or failed.")
        self._seconds = meter.create_histogram(
            names.PROCESS_SECONDS,
            "s",
            "Time for which messages were processed.",
            explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS,
        )
        self._parent = parent

    # Sending

    def send(self, before: Callable[..., Any]) -> Callable[..., Any]:
        def send(producer: Any, body: Any, *, headers: dict[str, str] | None = None, **options: Any) -> Any:
            with _Sending(self, producer._async, headers) as sending:
                return sending.accepted(before(producer, body, headers=sending.headers, **options))

        return send

    def asend(self, before: Callable[..., Any]) -> Callable[..., Any]:
        async def send(producer: Any, body: Any, *, headers: dict[str, str] | None = None, **options: Any) -> Any:
            if _sends.get():
                return await before(producer, body, headers=headers, **options)
            with _Sending(self, producer, headers) as sending:
                return sending.accepted(await before(producer, body, headers=sending.headers, **options))

        return send

    def send_many(self, before: Callable[..., Any]) -> Callable[..., Any]:
        def send_many(producer: Any, bodies: Any, **options: Any) -> Any:
            with _Sending(self, producer._async) as sending:
                return sending.all_accepted(before(producer, bodies, **options))

        return send_many

    def asend_many(self, before: Callable[..., Any]) -> Callable[..., Any]:
        async def send_many(producer: Any, bodies: Any, **options: Any) -> Any:
            if _sends.get():
                return await before(producer, bodies, **options)
            with _Sending(self, producer) as sending:
                return sending.all_accepted(await before(producer, bodies, **options))

        return send_many

    def begin_sending(self, queue: str, client: str) -> Any:
        attributes = _attributes("send", queue) | {names.CLIENT_ID: client}
        return self._tracer.start_as_current_span(f"send {queue}", kind=trace.SpanKind.PRODUCER, attributes=attributes)

    def count_sent(self, queue: str, count: int) -> None:
        self._sent.add(count, _attributes("send", queue))

    # Processing

    def enter(self, before: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def enter(taken: Any) -> Any:
            body = before(taken)
            self._begin(taken)
            return body

        return enter

    def leave(self, before: Callable[..., Any]) -> Callable[..., Any]:
        def leave(taken: Any, kind: Any, error: BaseException | None, trace_back: Any) -> Any:
            found = _of(taken)
            try:
                return before(taken, kind, error, trace_back)
            finally:
                if found is not None:
                    if error is not None:
                        found.fail(error)
                    self._end(taken, found)

        return leave

    def call(self, before: Callable[..., Any]) -> Callable[..., Any]:
        def call(handler: Any, item: Any) -> Any:
            if not isinstance(item, Message):  # an update of a topic
                return before(handler, item)
            found = self._begin(item)
            try:
                return before(handler, item)
            finally:
                self._end(item, found)

        return call

    def acall(self, before: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
        async def call(handler: Any, item: Any, calls: Any) -> None:
            if not isinstance(item, Message):
                return await before(handler, item, calls)
            found = self._begin(item)
            try:
                return await before(handler, item, calls)
            finally:
                self._end(item, found)

        return call

    def failed(self, before: Callable[..., Any]) -> Callable[..., Any]:
        def failed(handler: Any, item: Any, error: BaseException) -> Any:
            found = _of(item)
            if found is not None:
                found.fail(error)
            return before(handler, item, error)

        return failed

    def _begin(self, taken: Message[Any] | Batch[Any]) -> _Processing:
        known = _processing.get() or {}
        if (found := known.get(id(taken))) is not None:
            found.depth += 1
            return found
        if isinstance(taken, Message):
            queue, count = taken.queue, 1
            owner: Any = taken._owner
            sent_in = extract(taken.headers)
            linked = [trace.get_current_span(sent_in).get_span_context()]
            attributes = _attributes("process", queue) | {names.MESSAGE_ID: taken.id, names.ATTEMPT: taken.attempt}
        else:
            owner = taken._owner
            queue, count, sent_in, linked = owner.queue, len(taken), None, []
            attributes = _attributes("process", queue) | {names.BATCH_COUNT: count}
        span = self._tracer.start_span(
            f"process {queue}",
            sent_in if self._parent and linked and linked[0].is_valid else None,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes | {names.CLIENT_ID: owner._node.settings.name},
            links=[trace.Link(each) for each in linked if each.is_valid],
        )
        found = _Processing(span, queue, count)
        _processing.set({**known, id(taken): found})
        return found

    def _end(self, taken: Message[Any] | Batch[Any], found: _Processing) -> None:
        known = _processing.get() or {}
        found.depth -= 1
        if found.depth:
            return
        _processing.set({key: each for key, each in known.items() if each is not found})
        contexts.detach(found.token)
        attributes = _attributes("process", found.queue)
        if found.failed:
            attributes[names.ERROR_TYPE] = found.failed
        self._consumed.add(found.count, attributes)
        self._seconds.record(perf_counter() - found.began, attributes)
        found.span.end()


class _Sending:
    """One call that sends, in its span."""

    def __init__(self, traced: _Traced, producer: AsyncProducer[Any], headers: dict[str, str] | None = None) -> None:
        self._traced, self._queue = traced, producer.queue
        self._entering = traced.begin_sending(producer.queue, producer._node.settings.name)
        self.headers = headers

    def __enter__(self) -> _Sending:
        self._span = self._entering.__enter__()
        self._token = _sends.set(True)
        if self._span.is_recording():
            self.headers = dict(self.headers or {})
            inject(self.headers)
        return self

    def accepted(self, receipt: Any) -> Any:
        """One message, with this receipt."""
        self._span.set_attribute(names.MESSAGE_ID, receipt.id)
        self._traced.count_sent(self._queue, 1)
        return receipt

    def all_accepted(self, count: int) -> int:
        """So many messages."""
        self._span.set_attribute(names.BATCH_COUNT, count)
        self._traced.count_sent(self._queue, count)
        return count

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_back: Any) -> None:
        _sends.reset(self._token)
        if error is not None:
            self._span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
            if accepted := getattr(error, "accepted", 0):  # of `send_many`
                self.all_accepted(accepted)
        self._entering.__exit__(kind, error, trace_back)


def _of(taken: object) -> _Processing | None:
    return (_processing.get() or {}).get(id(taken))


def _attributes(operation: str, queue: str) -> dict[str, Any]:
    return {
        names.SYSTEM: names.PEERFABRIC,
        names.OPERATION_NAME: operation,
        names.OPERATION_TYPE: operation,
        names.DESTINATION: queue,
    }
