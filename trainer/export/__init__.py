"""From a checkpoint to what is served: tables apart, the ranker, and how they were checked."""
