"""Whole fabrics in one process, under a seed: simulated time, network, processes and user code around real engines.

    world = World(seed=7, theme="deaths")
    world.run()                      raises AssertionError with the seed and the end of the trace

The network carries frames per connection in order, with random delays. It cuts connections (what is in the
pipe is lost, or arrives after the first frames of the next one, as ZeroMQ does), stalls directions, refuses
and forgets. Processes die, vanish with their host, hang, come back as somebody else or as a later life.
User code is fast, slow, failing, hanging or deadly. Nothing else is random: the same seed replays the run.

A role with a spool is one node for ever: its disk, in memory, outlives each of its processes, and every process goes
on where the last one ended. The disk fails, fills up, is slow and loses its power, and a process may die within any
of its operations. Whoever waits there lets the world go on meanwhile, as a thread would. Consumers with ledgers have
disks, too, of roles that are another node each time.

What must hold is asserted after every turn (`check()` of the engine that had it), whenever an engine or user code does
something that needs a reason (`Witness`), and at the end, after everything was healed and became quiet (`Judge`).

    world.py        time, chance and the trace; holds together all that follows
    themes.py       which troubles and messages there may be
    roles.py        what each process is there for
    course.py       what happens in a run, and when
    troubles.py     what goes wrong, until all is healed
    supervisor.py   who starts processes and ends them
    process.py      one node: an engine, and what drives it
    producer.py     user code that sends to a queue
    consumer.py     user code that takes from a queue
    pipeline.py     user code that sends on what it takes, and what may be acked of that
    services.py     user code that calls services and answers them
    network.py      connections, and what is on its way in them
    disks.py        disks, and how a process has one
    recovery.py     how a process goes on with what its disk has
    shared.py       a shared spool folder: who takes slots of it, and who adopts them
    record.py       what happened so far
    witness.py      what must hold while it happens
    judge.py        what must hold at the end
"""

from __future__ import annotations

from tests.world.themes import CALL_THEMES, DISK_THEMES, LAN_THEMES
from tests.world.world import World

__all__ = ["CALL_THEMES", "DISK_THEMES", "LAN_THEMES", "World"]
