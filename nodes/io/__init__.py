"""I/O thread: sockets, and the pump that moves frames between them and the engine."""
