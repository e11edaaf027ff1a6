"""Admin: ask the processes of this user on this host what their nodes are doing, and act on them."""
