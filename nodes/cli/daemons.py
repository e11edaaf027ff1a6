"""Calls that may never return, in threads that do not keep the process from ending: a resolver, a connect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def beside(call: Callable[[], T]) -> Future[T]:
    """Start a call in a thread of its own, which is left alone at the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="peerfabric-beside", daemon=True).start()
    return future
