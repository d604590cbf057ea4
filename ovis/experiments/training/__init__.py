"""The training of one run or of several seeds: step, evaluation, checkpoint, journal."""
