"""Takes guards away from every Python process that has this folder on its path: for the tests that must then fail.

``OVIS_UNGUARDED`` lists them: ``deathsignal`` (a child dies with its parent), ``runlock`` (one job in
a run's folder), ``lease`` (a job ends whose lease was taken away), ``retry`` (a training tries again after errors that
may pass).
"""

import fcntl
import os
import sys

guards = os.environ.get("OVIS_UNGUARDED", "").split(",")

if "deathsignal" in guards:
    from ovis.experiments.runs import process

    process.parent_guard = lambda: None
    process.die_with_parent = lambda parent: True

if "runlock" in guards and "ovis.experiments.runner.job" in sys.orig_argv:
    fcntl.flock = lambda handle, operation: None

if "lease" in guards and "ovis.experiments.runner.job" in sys.orig_argv:
    from ovis.experiments.runner.queue.leases import Leases

    beat = Leases.beat
    Leases.beat = lambda self, key, attempt: beat(self, key, attempt) or True

if "retry" in guards and any(word.startswith("--run_dir=") for word in sys.orig_argv):
    from ovis.experiments.runs import retrying

    retrying.TRANSIENT = frozenset()
