"""Topic, the publisher's side: wait until somebody is subscribed, then publish."""

from peerfabric import Node

with Node(signals=True) as node:
    prices = node.publisher("prices.eur", float)
    prices.ready()
    prices.publish(1.08)
