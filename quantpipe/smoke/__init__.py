"""The smoke load: a real server on the real checkpoint, asked real questions, and nothing left behind."""
