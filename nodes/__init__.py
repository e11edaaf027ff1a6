"""Nodes: a process joins the fabric; what users hold, and the pump behind it."""
