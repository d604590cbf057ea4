"""Analysis of gradients and of trained models."""
