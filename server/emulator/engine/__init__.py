"""The emulated engine: scheduler, KV cache, speculation, step times and GPU readings. It does not know text or HTTP."""
