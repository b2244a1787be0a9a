"""What the server says about itself: its models, its options, its metrics and its GPU telemetry."""
