"""Handlers: a function is called with each message; Retry asks for another attempt, Reject gives up.

What was given up lies in the dead letters of its producer, for a person to look at and send again.
"""

import msgspec

from peerfabric import Message, Node, Reject, Retry


class Payment(msgspec.Struct):
    account: str
    cents: int


producer, bank = Node("office"), Node("bank")
is_open = {"alice"}


@bank.on_message("payments", concurrency=2)
def pay(payment: Payment, message: Message[Payment]) -> None:
    if payment.cents <= 0:
        raise Reject("nothing to pay")
    if payment.account not in is_open:
        raise Retry(delay=0.01, reason=f"{payment.account} has no account yet")
    print(f"paid {payment.cents} to {payment.account} at attempt {message.attempt}")


with bank, producer:
    payments = producer.producer("payments", Payment, max_attempts=3)
    for payment in (Payment("alice", 100), Payment("alice", -5), Payment("bob", 200)):
        payments.send(payment)
    payments.flush(timeout=30)

    is_open.add("bob")
    for letter in producer.dead_letters("payments"):
        print(f"given up: {letter.body.account} {letter.body.cents}, {letter.reason}, {letter.error}")
        if letter.reason == "attempts":
            letter.retry()
    payments.flush(timeout=30)
