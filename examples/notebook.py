"""Cells of a notebook. A node blocks, also inside the event loop that a notebook runs its cells in."""

# %% Start once. Running the cell again closes the node of the time before.
from peerfabric import Node

if "node" in globals():
    globals()["node"].close()
node = Node("notebook")
squares = node.producer("squares", int)
consumer = node.consumer("squares", int)

# %% Send. Run it as often as you like.
squares.send_many(n * n for n in range(5))

# %% Take. A loop left by `break` gives back what it had buffered.
for message in consumer:
    with message as square:
        print(square)
    if square == 16:
        break

# %% Look.
print(node.statistics().producers[0].acked, "acked")

# %% End.
node.close()
