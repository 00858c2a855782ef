"""Engine `streaming`: msmodelslim's own processors, one decoder layer at a time, from disk to disk.

A layer is read when its turn comes (weights.py), built on the meta device and filled (model.py), put
through the spec's processors (runner.py, processors.py), written and forgotten (saver.py, shards.py).
What is written can be taken up again by a later run (state.py).
"""
