"""The best shape of a student within limits on latency and size."""
