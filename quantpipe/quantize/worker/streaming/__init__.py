"""Engine `streaming`: msmodelslim's own processors, one decoder layer at a time, from disk to disk.

A layer is read (weights.py, prefetch.py), built on the meta device and filled (model.py), put through the
spec's processors (processors.py, passes.py), written and dropped (saver.py, shards.py), in the order of
runner.py. What is written can be continued by a later run (state.py).
"""
