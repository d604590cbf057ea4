"""Time and memory of a training step as K grows."""
