"""Discovery of nodes: backends that find them, and the roster that merges what they say.

Import from the modules themselves; nothing is loaded here, so that `zeroconf` is paid for only by those who use mDNS.
"""
