"""Who is out there: backends that find nodes, and the roster that merges what they say.

Import from the modules themselves; nothing is loaded here, so that `zeroconf` is paid for only by those who use mDNS.
"""
