"""Forwarder of Ethernet frames between two interfaces, which delays, reorders and loses them; run by its path.

    forwarder.py INTERFACE INTERFACE DELAY SPREAD LOSS SEED

Each frame leaves DELAY ± SPREAD seconds after it came, evenly distributed and whatever became of the one before; a
share LOSS of them never does. It stands in for the kernel's netem, which is not everywhere. A line on standard input is
answered by how many frames came, were overtaken, and were lost; it ends with standard input.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import sys
import time
from typing import Final

_EVERY_PROTOCOL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_FRAME_BYTES_MAX: Final = 1 << 17


def tap(interface: str) -> socket.socket:
    """A socket that reads what comes in at `interface`, and writes what is to leave by it.

    The kernel leaves sums and the cutting of large packets to hardware, of which there is none here. So each frame
    carries a header that says what is still to be done, and takes it along to where it leaves.
    """
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    made.bind((interface, 0))
    made.setblocking(False)
    return made


class Forwarder:
    """Frames on their way between two sockets.

    `frames`, `overtaken` and `lost` count those that came, those that left after one that came later, and those that
    are never to leave.
    """

    def __init__(self, ends: tuple[socket.socket, socket.socket], chance: random.Random) -> None:
        self._ends, self._chance = ends, chance
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._last_left = [0, 0]
        self.frames = self.overtaken = self.lost = 0

    def take(self, end: int, delay: float, spread: float, loss: float) -> None:
        """Take what has come in at one end, and settle when each of them leaves at the other."""
        while True:
            try:
                frame = self._ends[end].recv(_FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            self.frames += 1
            if self._chance.random() < loss:
                self.lost += 1
                continue
            due = time.monotonic() + max(0.0, delay + spread * self._chance.uniform(-1, 1))
            heapq.heappush(self._waiting, (due, self.frames, 1 - end, frame))

    def give(self) -> float | None:
        """Let those leave that are due; return in how many seconds the next one is."""
        while self._waiting:
            due, serial, end, frame = self._waiting[0]
            if (pause := due - time.monotonic()) > 0:
                return pause
            heapq.heappop(self._waiting)
            try:
                self._ends[end].send(frame)
            except OSError:
                self.lost += 1  # the cable is unplugged, or its queue is full: what a network would do, too
            if serial < self._last_left[end]:
                self.overtaken += 1
            self._last_left[end] = max(serial, self._last_left[end])
        return None


def main(first: str, second: str, delay: float, spread: float, loss: float, seed: int) -> None:
    ends = tap(first), tap(second)
    forwarder = Forwarder(ends, random.Random(seed))
    with selectors.DefaultSelector() as selector:
        for number, end in enumerate(ends):
            selector.register(end, selectors.EVENT_READ, number)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("forwarding", flush=True)
        while True:
            for key, _ in selector.select(forwarder.give()):
                if key.data is not None:
                    forwarder.take(key.data, delay, spread, loss)
                elif sys.stdin.readline():
                    print(forwarder.frames, forwarder.overtaken, forwarder.lost, flush=True)
                else:
                    return


if __name__ == "__main__":
    delay, spread, loss, seed = map(float, sys.argv[3:])
    main(sys.argv[1], sys.argv[2], delay, spread, loss, int(seed))
