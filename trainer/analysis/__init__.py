"""What a run has learned: each analysis reads a checkpoint and data, and leaves JSON and a PNG."""
