"""Hostile input for every reader of foreign bytes.

targets.py        one function for each reader: takes any bytes, raises only on a defect
run.py            the same targets under atheris, guided by coverage (`make fuzz`)
test_targets.py   the same under hypothesis, with inputs that failed once
"""
