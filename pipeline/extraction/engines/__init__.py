"""Where batches are encoded: on this machine's threads, or on a Ray cluster."""
