"""Fixtures of the tests of the gateway."""

from __future__ import annotations

from tests.nodes.conftest import runtime

__all__ = ["runtime"]
