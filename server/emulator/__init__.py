"""A vLLM-compatible server without a GPU: an instrument, not a mock. Everything it produces says `emulated`."""
