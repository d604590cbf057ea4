"""The experiments of one paper: its figures, claims, published numbers and report presets."""
