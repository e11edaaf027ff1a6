"""The course of a run: who is there, what users do, when troubles come, and how long it takes to become quiet."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from tests.world.pipeline import draw_pipeline
from tests.world.roles import draw_roles, spread
from tests.world.shared import Shared

if TYPE_CHECKING:
    from tests.world.world import World


CALLS = 20
"""Times at which somebody calls services."""


def play(world: World) -> None:
    """Draw what happens, let it happen, heal everything, and wait until it is quiet or ought to be."""
    random, theme = world.random, world.theme
    queues = [f"q{n}" for n in range(2 if theme.beside else random.choice((1, 1, 2)))]
    roles = draw_pipeline(theme, random) if theme.pipeline else draw_roles(theme, queues, random)
    world.supervisor.roles = roles
    if theme.shared:
        world.shared = Shared(world, roles.pop(0))
        for _ in range(random.randrange(1, 4)):
            world.at(random.uniform(0, 0.5), world.shared.start)
    if theme.lan:
        spread(theme, roles, random)
        world.at(0.25, world.lan_watch.look)
        world.at(0.25, world.network.watch)
        if theme.up_within < inf:
            world.at(0.8 + theme.up_within, world.lan_watch.check_linked)
    for role in roles:
        world.at(random.uniform(0, 0.5), partial(world.supervisor.start, role))
    length = random.choice((5.0, 12.0, 30.0) if theme.lan else (2.0, 5.0, 10.0))
    left = theme.messages
    while left > 0:
        size = min(left, random.choice((1, 1, 3, 10, 40)))
        kinds = random.choices(theme.kinds, k=size)
        world.at(random.uniform(0.1, length), partial(_burst, world, kinds))
        left -= size
    for _ in range(random.randrange(1, 7) if theme.faults else 0):
        world.at(random.uniform(0.2, length), partial(world.troubles.happen, random.choice(theme.faults)))
    for number, act in enumerate(theme.acts):
        world.at(random.uniform(0.1, 1.5 if number % 2 else length), partial(world.troubles.happen, act))
    for _ in range(3 if theme.closes else 0):
        world.at(random.uniform(0.2, length), partial(_close_some, world))
    for _ in range(12 if theme.reopens else 0):
        world.at(random.uniform(0.2, length), partial(_reopen_some, world))
    for _ in range(2 if theme.letters else 0):
        world.at(random.uniform(0.2, length), partial(_tend_letters, world))
    for _ in range(30 if theme.topics else 0):
        world.at(random.uniform(0.1, length), partial(_publish_some, world))
    if theme.topics:
        for _ in range(3):
            world.at(random.uniform(0.1, length), partial(_subscribe_some, world))
    for _ in range(CALLS if theme.calls else 0):
        world.at(random.uniform(0.1, length), partial(_ask_some, world))
    if "poison" in theme.kinds or "deadly" in theme.calls:
        world.at(0.0, world.supervisor.supervise)
    world.advance(length)
    world.troubles.heal_all()
    if theme.lan:
        world.after(2.0, world.supervisor.announce_all)
    if theme.topics:
        # A last update, so that a tail lost in the troubles is noticed.
        for after in (8.0, 30.0, 60.0):
            world.after(after, partial(_publish_everywhere, world))
    if theme.calls:
        world.after(20.0, partial(_ask_everywhere, world))
    end = world.now + theme.quiet_within
    while world.now < end:
        world.advance(world.now + 0.5)
        if not world.judge.restless():
            break
    world.advance(world.now + 3.0)
    for _ in range(10):
        if world.judge.restless():  # such as an idle link that closes just now
            world.advance(world.now + 0.5)


def _burst(world: World, kinds: list[str]) -> None:
    producers = [p for process in world.supervisor.living() for p in process.producers.values() if not p.closed]
    if producers:
        producer = world.random.choice(producers)
        if world.theme.beside and producer.queue == "q1":
            kinds = ["lasting" if world.random.random() < 0.4 else "ok"]
        producer.burst(kinds)


def _ask_some(world: World) -> None:
    """Somebody calls a service, some times in a row."""
    asking = [p.services for p in world.supervisor.living() if p.services is not None and not p.leaving]
    if asking:
        services, service = world.random.choice(asking), world.random.choice(world.services)
        for _ in range(world.random.choice((1, 1, 3, 10))):
            services.ask(service, world.random.choice(world.theme.calls))


def _ask_everywhere(world: World) -> None:
    """Everybody asks for what somebody serves: it is answered."""
    world.calls.all_asked = True
    living = [each for each in world.supervisor.living() if each.services is not None and not each.leaving]
    for process in living:
        for service in world.services:
            if process.services is not None and any(service in p.engine.responder.served for p in living):
                process.services.ask(service, world.random.choice(("ok", "stream")), last=True)


def _close_some(world: World) -> None:
    consumers = [c for process in world.supervisor.living() for c in process.consumers.values()]
    if consumers and not world.troubles.healed:
        consumer = world.random.choice(consumers)
        consumer.close()
        world.after(world.random.choice((0.01, 0.5, 3.0)), consumer.reopen)


def _reopen_some(world: World) -> None:
    producers = [p for process in world.supervisor.living() for p in process.producers.values() if not p.closed]
    if producers and not world.troubles.healed:
        producer = world.random.choice(producers)
        producer.process.post(producer.close)


def _tend_letters(world: World) -> None:
    for process in world.supervisor.living():
        for producer in process.producers.values():
            if not producer.closed:
                process.post(producer.tend_letters)


def _publish_some(world: World) -> None:
    living = world.supervisor.living()
    publishers = [(p, end) for p in living for end in p.engine.topics.publishers.values() if not p.leaving]
    if publishers:
        process, end = world.random.choice(publishers)
        bodies = [b"update"] * world.random.choice((1, 1, 5))
        process.post(lambda now: process.engine.topics.publish(end, bodies, 0))


def _subscribe_some(world: World) -> None:
    """A subscriber comes or goes."""
    living = [p for p in world.supervisor.living() if not p.leaving]
    if not living or world.troubles.healed:
        return
    process = world.random.choice(living)
    pattern = world.random.choice(["a.*", "a.x", ">", "b"])

    def change(now: float) -> None:
        if pattern in process.engine.topics.subscribers:
            process.engine.close_subscriber(pattern, now)
        else:
            process.engine.open_subscriber(pattern, 2**20, now)

    process.post(change)


def _publish_everywhere(world: World) -> None:
    for process in world.supervisor.living():
        for end in process.engine.topics.publishers.values():
            process.post(lambda now, process=process, end=end: process.engine.topics.publish(end, [b"last"], 0))  # type: ignore[misc]
