"""Queues: both ends of work that is shared among consumers."""
