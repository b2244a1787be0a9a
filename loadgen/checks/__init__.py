"""Checks of the measurement itself: `doctor`, `calibrate`, and the reference server whose true latencies are known."""
