"""Service, the asking side: wait until somebody serves it, then ask, with a timeout."""

import msgspec

from peerfabric import Node, RemoteError, Service


class Query(msgspec.Struct):
    pair: str


GET = Service("prices.get", Query, float, idempotent=True)

with Node(signals=True) as node:
    price = node.client(GET)
    price.ready()
    assert price(Query("eur"), timeout=20) == 1.08
    try:
        price(Query("dem"), timeout=20)
    except RemoteError as error:
        known = error.type != "KeyError"  # error.text is "'dem'", and error.server "prices"
    assert not known
