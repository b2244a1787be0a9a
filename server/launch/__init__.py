"""Starts a server, waits until it is ready, provides its endpoint, and stops it without leaving anything behind.

Three backends behave the same: `emulator` (our own server as a subprocess), `process` (`vllm serve` on this machine) and
`docker`. A server is ready when `/health` answers and one token has been generated. The servers end when the launcher ends,
even by `kill -9`: a watchdog process notices that the launcher's pipe has closed. Every server also carries labels by which
`python -m server down --all` finds it later.

This package does not know which requests the server receives, or what a sweep is.
"""
