"""Helpers that ship with quantpipe for tests of it, and of what is built on it."""
