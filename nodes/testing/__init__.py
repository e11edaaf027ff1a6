"""Testing: what helps to test handlers, services and pipelines."""
