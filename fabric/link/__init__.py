"""Links: everything between this node and one peer."""
