"""No discovery at all: one node listens at an endpoint, the other is told of it."""

from peerfabric import Node

with Node("listener", listen="tcp://127.0.0.1:7719", discovery=("static",)) as listener:
    consumer = listener.consumer("greetings", str)

    with Node("caller", peers=["tcp://127.0.0.1:7719"], discovery=("static",)) as caller:
        caller.producer("greetings", str).send("hello")
        with consumer.get(timeout=30) as greeting:
            print(greeting, "over", caller.peers()[0].endpoint)
