"""Hosts as network namespaces, and what happens between them: cables that are cut, firewalls, addresses that move."""
