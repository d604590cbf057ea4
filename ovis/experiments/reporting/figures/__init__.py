"""Figures of training runs: curves, pivots, legends, and the style of each estimator."""
