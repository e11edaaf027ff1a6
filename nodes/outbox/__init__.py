"""Outbox: messages accepted from users and not yet taken over by the engine."""
