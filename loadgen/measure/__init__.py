"""Computes the figures of a run from what was recorded: formulas, percentiles, summary and verdict.

Nothing here sends a request. Only `client_health` reads a clock, because it measures the client itself.
"""
