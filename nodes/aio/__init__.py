"""Asynchronous front: handles whose calls are coroutines."""
