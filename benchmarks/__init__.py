"""Benchmarks: what the client and the emulator cost, and how accurate they are."""
