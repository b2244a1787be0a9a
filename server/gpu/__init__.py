"""GPU telemetry of this machine: nvml.py reads the GPUs, exporter.py serves the values to Prometheus."""
