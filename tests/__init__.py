"""Tests: real servers on real sockets, no mocks."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
