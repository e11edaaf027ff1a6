"""The world: its time, its chance, its trace, and its parts."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random

from tests.world.course import play
from tests.world.disks import Disks
from tests.world.judge import Judge
from tests.world.lan import Lan
from tests.world.lan_watch import LanWatch
from tests.world.network import Network
from tests.world.pipeline import PipelineWatch
from tests.world.record import Record
from tests.world.roles import SERVICES
from tests.world.services import Calls
from tests.world.shared import Shared
from tests.world.supervisor import Supervisor
from tests.world.themes import THEMES, VOLATILE_THEMES
from tests.world.troubles import Troubles
from tests.world.witness import Witness


class World:
    """A fabric, its network, its troubles, and the record of all that happened."""

    def __init__(self, seed: int, theme: str | None = None) -> None:
        self.seed = seed
        self.random = Random(f"world {seed}")
        self.theme_name = theme or VOLATILE_THEMES[seed % len(VOLATILE_THEMES)]
        self.theme = THEMES[self.theme_name]
        self.now = 0.0
        self.turns = 0
        self.serial = count(1)
        """Numbers of the bodies that user code makes."""
        self.poison_left = 60
        """How many more processes may die of poison."""
        self.trace: deque[str] = deque(maxlen=4000)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.record = Record(self)
        self.witness = Witness(self)
        self.calls = Calls(self)
        self.services = SERVICES
        self.network = Network(self)
        self.lan = Lan(self)
        self.disks = Disks(self)
        self.supervisor = Supervisor(self)
        self.troubles = Troubles(self)
        self.judge = Judge(self)
        self.lan_watch = LanWatch(self)
        self.pipeline_watch = PipelineWatch(self)
        self.shared: Shared | None = None
        """The folder in which processes take slots, if there is one."""

    def run(self) -> None:
        """Play the seed from start to end.

        Raises:
            AssertionError: Something that must hold did not; the text has the seed and the end of the trace.
        """
        try:
            play(self)
            self.judge.check()
        except Exception as error:
            tail = "\n".join(list(self.trace)[-int(os.environ.get("WORLD_TRACE", "60")) :])
            raise AssertionError(
                f"{tail}\nWORLD_SEED={self.seed} theme {self.theme_name!r}: {type(error).__name__}: {error}"
            ) from error

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Let it happen then, after what was to happen at that instant already."""
        heapq.heappush(self._events, (when, next(self._order), event))

    def after(self, delay: float, event: Callable[[], None]) -> None:
        """Let it happen `delay` seconds from now."""
        self.at(self.now + delay, event)

    def log(self, text: str) -> None:
        self.trace.append(f"{self.now:9.4f} {text}")

    def advance(self, until: float) -> None:
        """Let everything happen that is due before `until`."""
        while self._events and self._events[0][0] <= until:
            when, _, event = heapq.heappop(self._events)
            self.now = max(self.now, when)
            event()
        self.now = max(self.now, until)  # an event that waits for the disk may have lasted longer
