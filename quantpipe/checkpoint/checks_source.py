"""Checks against the BF16 source: B13."""
