"""The smoke load: a real server loads the real checkpoint, answers real requests, and leaves nothing over."""
