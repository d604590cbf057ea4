"""``manager.py`` for storms: ``python storm_manager.py HEARTBEAT TTL stub|real``, then the manager's options.

However often a run is lost, it is tried again soon.
"""

from __future__ import annotations

import sys

from stub_manager import STUB

from ovis.experiments.cli.manager import main
from ovis.experiments.runner.queue.retry_policy import Policy

if __name__ == "__main__":
    heartbeat, ttl = map(float, sys.argv[1:3])
    policy = Policy(heartbeat, ttl, max_lost=10**6, backoff=heartbeat / 4, max_backoff=4 * heartbeat)
    raise SystemExit(main(sys.argv[4:], STUB if sys.argv[3] == "stub" else None, policy))
