"""Stage 5: move the pointer, and retention of the generations before."""
