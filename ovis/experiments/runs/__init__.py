"""A run's folder: paths, identity, status, and the lifecycle of an attempt."""
