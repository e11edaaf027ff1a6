"""Who is out there: discovery backends and the roster that merges them."""
