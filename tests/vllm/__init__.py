"""What the tests against a real vLLM need."""
