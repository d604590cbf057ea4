"""Runs that differ only in the seed, trained as one batched model."""
