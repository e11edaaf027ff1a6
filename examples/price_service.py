"""Service, the answering side: a function is asked by other processes, and each of them gets its reply."""

import msgspec

from peerfabric import Node, Service


class Query(msgspec.Struct):
    pair: str


node = Node("prices")


@node.serve(Service("prices.get", Query, float, idempotent=True))
def get(query: Query) -> float:
    print("asked for", query.pair, flush=True)
    return {"eur": 1.08, "chf": 0.97}[query.pair]


node.run()
