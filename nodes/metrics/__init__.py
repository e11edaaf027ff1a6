"""Metrics: the status of nodes as text for Prometheus."""
