"""Blocking front: handles whose calls block their thread."""
