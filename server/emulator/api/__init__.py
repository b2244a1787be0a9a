"""The HTTP API of the emulated server: requests, responses, metrics and faults. It does not know step times."""
