"""A consumer of a web application's orders: `web_kitchen.py LOG CLOSED`. One line an order, written before it is acked.

While there is a file CLOSED nothing is cooked.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from peerfabric import Message, Node

node = Node("kitchen")
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@node.on_message("orders")
def cook(order: dict[str, Any], message: Message[Any]) -> None:
    while os.path.exists(sys.argv[2]):
        time.sleep(0.02)
    os.write(log, f"{message.id} {order['number']}\n".encode())


node.peers()
print("cooks", flush=True)
node.run()
