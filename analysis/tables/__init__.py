"""Compute the tables of a report from the frame of requests."""
