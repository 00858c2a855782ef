"""From a snapshot and a recipe to a quantized checkpoint: datasets, job, worker, streaming engine."""
