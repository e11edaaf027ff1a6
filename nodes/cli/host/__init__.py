"""Commands that ask the running processes of this host."""
