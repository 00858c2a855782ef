"""The fetch stage: source weights from a hub or a directory into a snapshot, verified to the last byte."""
