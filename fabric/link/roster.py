"""Roster: what this node knows of the fabric, whom of it to dial, and the links that are kept for news of it.

Links are for work: a node that is known is dialled only if its digest may match ours. What is known comes from
discovery, from hellos, and, where neither registry nor mDNS shows the others, by roster links: two of them, seeds
first, which are kept though nothing else is in common, and over which both sides pass on each change that they hear of.

    news      an Address whose (epoch, version) is larger than what is known of its node; nothing else is taken or
              passed on, so news makes no circles, and costs each node one frame a link at most
    grave     an Address without an endpoint: its node has ended. A node that hears of its own announces a larger
              version

Invariants, see `check()`: news waits only for links that are up, graves and what is remembered have their limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from math import inf
from typing import Final

import msgspec

from peerfabric.link.addresses import later
from peerfabric.link.digest import OwnDigest
from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.reports import PeerView
from peerfabric.wire.frames import IDLE, KNOWN_MAX, Address, Bye, Hello

ROSTER_LINKS: Final = 2
"""Links that a node keeps for news."""
MATES_MAX: Final = 8
"""Nodes that may keep such a link to this one; further ones hear of everybody once, and look for another. So a seed has
no more to do than others, however many nodes begin with it."""
NEWS_EVERY: Final = 0.25
"""Changes are gathered for so long before they are passed on, but for the first after a while."""
AVOID_FOR: Final = 60.0
"""A node that did not take, or keep, a roster link is not asked for one again before."""
CHOSEN_PATIENCE: Final = 3.0
"""The link with it must be up by then."""
SIGHTED_WITHIN: Final = 2.0
"""Until registry or mDNS has shown a node that came by itself, if they show it."""
DOUBT_FOR: Final = 600.0
"""A node that vanished, and of which nothing is heard for so long, has ended."""
GRAVES_MAX: Final = 256
VERSION_MAX: Final = 2**53 - 1
"""Of an Address: no larger one can be told."""
VERSIONS_AHEAD_MAX: Final = 1 << 20
"""A grave of our own is answered by a larger version if it is ahead of ours by no more. Its maker knows a version of
ours and adds one; who is far ahead lies, and would have us use up all versions there are."""

_NEWS, _CHOOSE = "news", "choose"
"""Stand among the deadlines, beside the ids of nodes in doubt."""


class Roster(Machine):
    """Who is there, and how this node and others hear of it.

    Args:
        links: Its links; the hooks in them that ask about other nodes are set here.
    """

    def __init__(self, links: Links) -> None:
        super().__init__()
        self.own = OwnDigest()
        self.exchanges = False
        """Nodes tell each other of others by hellos."""
        self.looking = False
        """Everybody is dialled, to see what they use."""
        self.announced: Address | None = None
        """Our own address, if it has changed since the driver took it."""
        self._links = links
        self.sights = False
        """This node looks for others by registry or mDNS."""
        self._sighted: set[str] = set()
        """Nodes that they show."""
        self._unsighted: dict[str, float] = {}
        """Nodes that have come in other ways -> since when."""
        self._guides: set[str] = set()
        """Those of them that pass on news of others."""
        self._graves: dict[str, Address] = {}
        self._chosen: dict[str, float] = {}
        """Nodes to which this one keeps a roster link -> until when it must be up."""
        self._mates: dict[Link, None] = {}
        """Links whose peer asks for news."""
        self._news: dict[Link, dict[str, None]] = {}
        """Up roster links -> nodes of which the peer shall hear."""
        self._news_at = -inf
        self._avoided: dict[str, float] = {}
        self._seen: dict[str, PeerView] = {}
        """What those used from whom we parted since we look."""
        links.wanted, links.news_for, links.asks, links.heard = self.wanted, self._news_for, self._asks, self._heard

    def handlers(self) -> Mapping[type, Handler]:
        return {Bye: self._handle_bye}

    # Our own address

    def interest_changed(self, names: Sequence[Iterable[str]], now: float) -> None:
        """This node uses `names` from now on, those of each role: others hear of it; who may match is dialled."""
        self.own.update(*names)
        self._tell_digest(now)
        self._dial_all(self.own.may_match_fresh, now)
        if not self.exchanges:
            for address in self._links.known():
                if address.node_id not in self._sighted:  # only a hello tells it what this node uses now
                    self._links.redial(address.node_id, now)

    def rekey(self, keys: Sequence[bytes], now: float) -> None:
        """Digests are made and read under these keys from now on."""
        self.own.rekey(keys)
        self._tell_digest(now)
        self._dial_all(self.own.may_match, now)

    def look_at_all(self, on: bool, now: float) -> None:
        """Dial everybody, and let everybody dial this node, until it is off again."""
        if on == self.looking:
            return
        self.looking = on
        self._seen.clear()
        self._tell_digest(now)
        if on:
            self._dial_all(lambda digest: True, now)

    def _tell_digest(self, now: float) -> None:
        digest = None if self.looking else self.own.digest
        if digest != self._links.address.digest:
            self._change(now, digest=digest)

    def _change(self, now: float, *, above: int = 0, **fields: object) -> None:
        """Others hear that our address has changed."""
        ours = self._links.address
        version = max(ours.version, above) + 1
        self._links.address = msgspec.structs.replace(ours, version=version, **fields)
        self.announce(now)

    def announce(self, now: float) -> None:
        """Our address has changed, and its version is larger: tell the driver, and all who want news."""
        self.announced = self._links.address
        self._pass_on(self.announced.node_id, now)

    # Whom to dial

    def wanted(self, address: Address) -> bool:
        """Whether a link with the node may be of use."""
        if address.node_id in self._chosen:
            return True
        if self._links.is_useless(address):
            return False  # until one of the two digests changes
        return self.looking or self.own.may_match(address.digest)

    def consumers_of(self, queue: str) -> list[Address]:
        """Nodes that consume `queue`, this one among them: as their interest says, or, without a link, may say."""
        links = self._links
        found = [links.address] if self.own.uses("consumes", queue) else []
        for address in links.known():
            link = links.link_with(address.node_id)
            told = link.their_interest if link is not None and link.up else None
            if told is not None:
                consumes = any(each.queue == queue for each in told.consumes)
            else:
                consumes = self.own.may_have(address.digest, f"c{queue}")
            if consumes:
                found.append(address)
        return found

    def _dial_all(self, may_match: Callable[[bytes | None], bool], now: float) -> None:
        for address in self._links.known():
            if self._links.link_with(address.node_id) is None and may_match(address.digest):
                self._links.redial(address.node_id, now)

    # What discovery says

    def discovered(self, address: Address, now: float, *, sighted: bool) -> None:
        """Discovery proposes an address; `sighted`: registry or mDNS shows the node itself."""
        node_id = address.node_id
        if sighted and node_id != self._links.address.node_id:
            self._sighted.add(node_id)
            self._unsighted.pop(node_id, None)
            (self._guides.add if address.passes_on else self._guides.discard)(node_id)
            self._graves.pop(node_id, None)  # it is seen where only the living are
        self._take(address, now, None)
        self._choose_soon(now)

    def lost(self, node_id: str, now: float) -> None:
        """Discovery does not see the node any more."""
        self._sighted.discard(node_id)
        self._guides.discard(node_id)
        self._choose_soon(now)
        known = self._links.known_address(node_id)
        self._links.lost(node_id, now)
        gone = self._links.known_address(node_id) is None and self._links.link_with(node_id) is None
        if known is not None and gone:
            self._bury(known, now)

    # What peers say

    def _heard(self, link: Link, hello: Hello, news: bool, now: float) -> None:
        """A hello has come on `link`; `news`: the address in it is newer than what was known."""
        theirs = hello.address
        if theirs.node_id in self._graves:
            if later(theirs, self._graves[theirs.node_id]) or link not in self._news:
                del self._graves[theirs.node_id]
            else:
                self._pass_on(theirs.node_id, now)  # it will announce that it lives
        self._unsighted_since(theirs.node_id, now)
        if link.address is not None and not later(link.address, theirs):
            link.meet(theirs)
        if hello.roster and self.exchanges:
            if link not in self._mates:
                self._mates[link] = None
                self._begin(link, now)
        elif self._mates.pop(link, 0) is None and link.node_id not in self._chosen:
            self._news.pop(link, None)
        if news:
            self._pass_on(theirs.node_id, now, source=link)
        if self.exchanges:
            for address in hello.known:
                self._take(address, now, link)
        self._choose_soon(now)

    def _take(self, address: Address, now: float, source: Link | None) -> None:
        """Take what is said of a node, if it is news, and pass it on."""
        node_id = address.node_id
        ours = self._links.address
        if node_id == ours.node_id:
            if address.epoch != ours.epoch:
                self._links.discovered(address, now)  # another life of this very node
            elif not address.inbox and 0 <= address.version - ours.version <= VERSIONS_AHEAD_MAX:
                self._change(now, above=address.version)  # we have not ended
            return
        known, grave = self._links.known_address(node_id), self._graves.get(node_id)
        if grave is not None and not later(address, grave):
            return
        if not address.inbox:
            if known is None or later(address, known):
                self._set_grave(address, now, source)
            return
        news = known is None or later(address, known)
        if not news and source is not None:
            return  # a rumour that is no news; discovery may know one more way
        self._links.discovered(address, now)
        if news and self._links.known_address(node_id) is not None:  # there is room for it, and it is let in
            self._graves.pop(node_id, None)
            self._unsighted_since(node_id, now)
            self._pass_on(node_id, now, source=source)

    def _unsighted_since(self, node_id: str, now: float) -> None:
        if node_id not in self._sighted and node_id not in self._unsighted and self.exchanges:
            self._unsighted[node_id] = now
            self._choose_soon(now)

    def _is_unsighted(self, node_id: str, now: float) -> bool:
        """Whether neither registry nor mDNS will show it, by now."""
        return now - self._unsighted.get(node_id, inf) >= (SIGHTED_WITHIN if self.sights else 0.0)

    def _bury(self, address: Address, now: float) -> None:
        """The node has ended: tell those who cannot find out."""
        if self.exchanges:
            grave = msgspec.structs.replace(
                address,
                inbox=[],
                outbox=[],
                version=min(address.version + 1, VERSION_MAX),
                digest=b"",
                passes_on=False,
            )
            self._set_grave(grave, now, None)

    def _set_grave(self, grave: Address, now: float, source: Link | None) -> None:
        node_id = grave.node_id
        self._graves.pop(node_id, None)
        self._graves[node_id] = grave
        if len(self._graves) > GRAVES_MAX:
            del self._graves[next(iter(self._graves))]
        self._links.forget(node_id, now)
        self._seen.pop(node_id, None)
        self._unsighted.pop(node_id, None)
        self._pass_on(node_id, now, source=source)

    # Passing on

    def _begin(self, link: Link, now: float) -> None:
        """A roster link is up: the peer hears of everybody."""
        if not link.up or link in self._news or link.wire == OURSELVES:
            return
        news = dict.fromkeys(address.node_id for address in self._links.known() if address.node_id != link.node_id)
        news.update(dict.fromkeys(self._graves))
        self._news[link] = news
        self._links.hello_due[link] = None

    def _pass_on(self, node_id: str, now: float, source: Link | None = None) -> None:
        for link, news in self._news.items():
            if link is not source and (link.node_id != node_id or node_id in self._graves):
                news[node_id] = None
        if self._news:
            self.deadlines.put(_NEWS, max(now, self._news_at + NEWS_EVERY))

    def _news_for(self, link: Link) -> list[Address]:
        """What the next hello on `link` tells of others."""
        news = self._news.get(link)
        if not news or not link.up:
            return []
        told: list[Address] = []
        while news and len(told) < KNOWN_MAX:
            node_id = next(iter(news))
            del news[node_id]
            address = self._graves.get(node_id) or self._links.known_address(node_id)
            if address is not None:
                told.append(address)
        if news:
            self._links.hello_due[link] = None
        return told

    # Roster links

    def _asks(self, link: Link) -> bool:
        """Whether a hello on `link` asks for news."""
        if not self.exchanges or link.wire == OURSELVES:
            return False
        return link.node_id in self._chosen or (link.address is None and len(self._chosen) < ROSTER_LINKS)

    def _choose_soon(self, now: float) -> None:
        if self.exchanges and not self._links.closing:
            self.deadlines.put(_CHOOSE, now)

    def _choose(self, now: float) -> None:
        """Keep as many roster links as are needed, to the best that are there.

        If one of them leads to nodes that those who see us may not see, they may keep theirs to us.
        """
        if not (self._unsighted or self._guides or self._chosen or self._mates):
            return
        links = self._links
        self._avoided = {node_id: until for node_id, until in self._avoided.items() if until > now}
        seeds = [node_id for node_id in links.seeds() if node_id not in self._sighted]
        for node_id, until in list(self._chosen.items()):
            if until <= now and not links.is_up(node_id):
                self._avoided[node_id] = now + AVOID_FOR
                self._unchoose(node_id)
            elif node_id in self._sighted and (seeds or node_id not in self._guides):
                self._unchoose(node_id)
        kept = set(self._chosen)
        kept.update(link.node_id for link in self._mates if link.up and link.node_id not in self._sighted)
        if len(kept) < ROSTER_LINKS:
            for node_id in self._pool(seeds, now):
                if node_id not in kept and node_id not in self._avoided:
                    kept.add(node_id)
                    self._ask(node_id, now)
                    if len(kept) >= ROSTER_LINKS:
                        break
        ways = [*self._chosen, *(link.node_id for link in self._mates)]
        passes_on = bool(self._sighted) and any(links.is_up(each) and self._is_unsighted(each, now) for each in ways)
        if passes_on != links.address.passes_on:
            self._change(now, passes_on=passes_on)
        waiting = [until for node_id, until in self._chosen.items() if not links.is_up(node_id)]
        if len(kept) < ROSTER_LINKS:
            waiting.extend(self._avoided.values())
        if self.sights:
            shown_by = (since + SIGHTED_WITHIN for since in self._unsighted.values())
            waiting.append(min((at for at in shown_by if at > now), default=inf))
        self.deadlines.put(_CHOOSE, max(now + 0.1, min(waiting, default=inf)))

    def _pool(self, seeds: list[str], now: float) -> list[str]:
        """Nodes that may be asked, the best first.

        Without a seed that nothing else shows: those we see who know others, unless they have as many mates as they
        take. Else all that nothing else shows, in another order for each node, so that none has many mates; but first
        seeds, or one that all who know the same ask too, so that none are left among themselves.
        """

        def spread(nodes: Iterable[str]) -> list[str]:
            return sorted(nodes, key=lambda node_id: blake2b(f"{ours} {node_id}".encode()).digest())

        ours = self._links.address.node_id
        for node_id in [each for each in self._unsighted if self._links.known_address(each) is None]:
            del self._unsighted[node_id]  # it did not answer for long, and is forgotten
        others = [node_id for node_id in self._unsighted if self._is_unsighted(node_id, now)]
        guides = spread(self._guides - self._avoided.keys())
        if not seeds and (guides or (self._guides and self._chosen)):
            return guides
        return [*(seeds or sorted(others)[:1]), *spread(others)]

    def _ask(self, node_id: str, now: float) -> None:
        self._chosen[node_id] = now + CHOSEN_PATIENCE
        link = self._links.link_with(node_id)
        if link is None:
            self._links.redial(node_id, now)
        elif link.up:
            self._begin(link, now)
            self._links.hello_due[link] = None

    def _unchoose(self, node_id: str) -> None:
        del self._chosen[node_id]
        link = self._links.link_with(node_id)
        if link is not None and link.up:
            self._links.hello_due[link] = None  # without the wish for news
            if link not in self._mates:
                self._news.pop(link, None)

    def _handle_bye(self, link: Link, bye: Bye, body: object, now: float) -> None:
        if bye.reason == IDLE and link.node_id in self._chosen:
            self._avoided[link.node_id] = now + AVOID_FOR  # it has as many mates as it takes
            self._unchoose(link.node_id)

    def keeps(self, link: Link) -> bool:
        """Whether `link` stays though nothing is in common."""
        if link.node_id in self._chosen:
            return True
        return link in self._mates and (len(self._mates) <= MATES_MAX or link in list(self._mates)[:MATES_MAX])

    # Links and time

    def link_up(self, link: Link, now: float) -> None:
        self._seen.pop(link.node_id, None)
        self.deadlines.move(link.node_id, inf)
        if link in self._mates or link.node_id in self._chosen:
            self._begin(link, now)
        self._choose_soon(now)

    def link_down(self, link: Link) -> None:
        self._news.pop(link, None)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        was_mate, was_chosen = link in self._mates, link.node_id in self._chosen
        self._mates.pop(link, None)
        self._chosen.pop(link.node_id, None)
        self._news.pop(link, None)
        self._choose_soon(now)
        if link.address is None or link.wire == OURSELVES:
            return
        if self.looking and link.their_interest is not None:
            self._seen[link.node_id] = msgspec.structs.replace(link.view(), state="idle")
        known = self._links.known_address(link.node_id)
        if known is not None and later(known, link.address):
            return  # a later life, or it was heard of since
        if proven and link.node_id not in self._sighted:
            self._bury(link.address, now)
        elif was_mate or was_chosen:
            self.deadlines.put(link.node_id, now + DOUBT_FOR)

    def handle_timeout(self, now: float) -> None:
        for thing in self.deadlines.take_due(now):
            if thing == _NEWS:
                self._news_at = now
                for link, news in self._news.items():
                    if news:
                        self._links.hello_due[link] = None
            elif thing == _CHOOSE:
                self._choose(now)
            elif self._links.link_with(thing) is None and thing not in self._sighted:
                known = self._links.known_address(thing)
                if known is not None:
                    self._bury(known, now)

    # Reports

    def view(self) -> list[PeerView]:
        """Everybody, and what those use from whom we parted since we look."""
        return [self._seen.get(view.node_id, view) if view.state == "idle" else view for view in self._links.view()]

    def check(self) -> None:
        self.own.check()
        for node_id in self._graves:
            assert node_id != self._links.address.node_id, "a grave of our own"
        for link in self._news:
            assert link.up, "news for a link that is not up"
        assert len(self._graves) <= GRAVES_MAX
        assert self._links.address.node_id not in self._sighted


__all__ = ["Roster"]
