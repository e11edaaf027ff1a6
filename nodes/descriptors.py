"""How many descriptors a node needs, and the limit of the process that is raised for them."""

from __future__ import annotations

import logging
import resource
from typing import Final

from peerfabric.discovery.remarks import remark
from peerfabric.errors import ConfigError

_FDS_PER_PEER: Final = 7  # mailboxes of a PUSH and both ends of its monitor, and a connection each way for both kinds
_FDS_OTHER: Final = 256  # what ZeroMQ, the interpreter, a spool and a modest application hold besides
_PEERS_MIN: Final = 64


def raise_descriptor_limit(peers_max: int) -> None:
    """Raise the limit of open descriptors as far as `peers_max` peers need and the system allows."""
    wanted, least = (_FDS_OTHER + _FDS_PER_PEER * peers for peers in (peers_max, min(peers_max, _PEERS_MIN)))
    soft, hard = (
        float("inf") if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if hard < least:
        raise ConfigError(f"this process may open {hard} descriptors and needs {least}; raise `ulimit -Hn`")
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if soft < wanted:
        remark(
            logging.WARNING,
            "%d descriptors are enough for %d peers, not for peers_max=%d; raise `ulimit -Hn`",
            soft,
            (soft - _FDS_OTHER) // _FDS_PER_PEER,
            peers_max,
        )
