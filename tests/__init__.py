"""Tests, with real servers on real sockets and no mocks."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The root folder of the repository."""
