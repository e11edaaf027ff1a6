"""What a sender can know: accepted, delivered, processed. Receipts are small; flush waits for everything."""

from peerfabric import Node, NotConfirmed

with Node("sender") as sender, Node("receiver") as receiver:
    numbers = sender.producer("numbers", int)

    receipt = numbers.send(1)  # returns at once: this node keeps it until somebody acked it
    print(numbers.state(receipt))

    try:
        numbers.wait(receipt, "processed", timeout=0.1)
    except NotConfirmed as error:
        print("not yet, and still ours:", error.receipt == receipt)

    @receiver.on_message("numbers")
    def take(number: int) -> None:
        print("took", number)

    numbers.wait(receipt, "processed", timeout=30)
    print(numbers.state(receipt))

    numbers.send(2, confirm="processed", timeout=30)  # sends and waits in one
    numbers.send_many([3, 4, 5])
    numbers.flush(timeout=30)  # all that was accepted before is settled
    print(sender.statistics().producers[0].acked, "acked")
