"""``manager.py`` with a stub for the training: ``python stub_manager.py HEARTBEAT TTL``, then the manager's options."""

from __future__ import annotations

import sys
from pathlib import Path

from ovis.experiments.cli.manager import main
from ovis.experiments.runner.queue.retry_policy import Policy

STUB = (sys.executable, str(Path(__file__).with_name("stub_training.py")))

if __name__ == "__main__":
    heartbeat, ttl = map(float, sys.argv[1:3])
    raise SystemExit(main(sys.argv[3:], STUB, Policy(heartbeat=heartbeat, ttl=ttl, backoff=heartbeat / 4)))
