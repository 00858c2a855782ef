"""What lies on shared storage: generations, runs, receipts, manifests and leases.

This file imports nothing: see `quantpipe.checkpoint`.
"""
