"""What we test: serving configurations, the emulated vLLM server, and how either is started.

Does not know: the load generator, or what is concluded.
"""
