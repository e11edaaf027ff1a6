"""Queue, the consumer's side: run this in one terminal and shop.py in another. Ctrl-C ends it."""

import msgspec

from peerfabric import Node


class Order(msgspec.Struct):
    number: int
    dish: str


def cook(order: Order) -> None:
    print("cooked", order.dish)


with Node("kitchen", signals=True) as node:
    for message in node.consumer("orders", Order):
        with message as order:  # acked on leaving; an Exception nacks
            cook(order)
