"""Command line: `peerfabric`; docs/command-line.md says what it promises."""
