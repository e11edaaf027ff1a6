"""The `peerfabric` command; docs/command-line.md says what it promises."""
