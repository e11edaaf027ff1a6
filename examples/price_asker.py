"""Service, the asking side: wait until somebody serves it, then ask, with a timeout, and see what can go wrong."""

import msgspec

from peerfabric import Node, NoServer, RemoteError, Service, TimedOut


class Query(msgspec.Struct):
    pair: str


GET = Service("prices.get", Query, float, idempotent=True)

with Node(signals=True) as node:
    price = node.client(GET)
    try:
        price.ready(timeout=30)
        print(price(Query("eur"), timeout=20))
        print(price(Query("dem"), timeout=20))
    except (NoServer, TimedOut) as error:
        print(error)  # whether it was sent, and what to do next
    except RemoteError as error:
        print(error.server, "raised", error.type, error.text)
