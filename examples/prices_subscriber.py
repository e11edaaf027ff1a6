"""Topic, the subscriber's side: run this in one terminal and prices_publisher.py in another. Ctrl-C ends it."""

from peerfabric import Node

with Node(signals=True) as node:
    for update in node.subscriber("prices.*", float):
        print(update.topic, update.body)
