"""A vLLM-compatible server that needs no GPU. It is a measuring instrument: everything it produces is marked `emulated`."""
