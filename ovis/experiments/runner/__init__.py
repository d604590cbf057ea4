"""The runner: from an experiment file to a queue of runs, and their jobs on an engine."""
