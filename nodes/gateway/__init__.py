"""Gateway: queues, topics and services of a fabric over HTTP, for programs that are not Python."""
