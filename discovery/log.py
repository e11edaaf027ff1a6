"""Logger of the library, written so that handlers of log lines cannot end a thread of ours.

A handler is user code, and may raise: because its disk is full, or since it calls peerfabric from a thread in which
that is refused (`OwnThread`). What it does not take is lost; the thread that keeps promises goes on.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any, Final

from peerfabric.discovery.locks import OwnThread


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line. In a thread of ours nothing is raised; in one of the user he is told what he raised."""
        try:
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)  # as written by our caller
        except BaseException:  # SystemExit, too, would end the thread
            if not isinstance(threading.current_thread(), OwnThread):
                raise
            if logging.raiseExceptions and sys.stderr is not None:  # as `logging.Handler.handleError` does
                with suppress(Exception):
                    traceback.print_exc(file=sys.stderr)


log: Final = _Log(logging.getLogger("peerfabric"), None)
