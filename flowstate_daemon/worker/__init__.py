"""The worker: claims jobs, runs the handler and writes results back in batches."""
