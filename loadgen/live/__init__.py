"""What shows a run while it is running: the metrics for Prometheus and the progress on the terminal."""
