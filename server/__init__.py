"""The serving side: serving configurations, model presets, the emulated vLLM server, and the launcher of servers.

This package does not know the load generator, or how results are analyzed.
"""
