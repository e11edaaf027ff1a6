"""Topics: publishers, subscribers and their gaps."""
