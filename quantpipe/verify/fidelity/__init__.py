"""The comparison of a checkpoint with its BF16 source."""
