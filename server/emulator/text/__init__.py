"""The text of emulated models: tokenizer, known problems, outcomes and outputs. It does not know time or batches."""
