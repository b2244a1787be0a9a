"""Files for the tests that compare with a real vLLM."""
