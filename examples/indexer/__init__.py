"""Index the source of Python's standard library with four processes: what `peerfabric demo` runs.

Read `worker.py` first, then `producer.py` and `collector.py`: each is one process. `findings.py` is what they send
each other, `run.py` starts and watches them.
"""
