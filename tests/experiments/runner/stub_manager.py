"""``manager.py`` with a stub for the training: ``python stub_manager.py HEARTBEAT TTL``, then the manager's options.

``OVIS_TRY_SECONDS`` is how long a transaction on the ledger is tried again, ``OVIS_TOLD_AFTER`` after how long the user
is told that it waits for the lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ovis.experiments.cli.manager import main
from ovis.experiments.runner import outage
from ovis.experiments.runner.queue import ledger
from ovis.experiments.runner.queue.retry_policy import Policy

STUB = (sys.executable, str(Path(__file__).with_name("stub_training.py")))

if __name__ == "__main__":
    outage.TRY_SECONDS = float(os.environ.get("OVIS_TRY_SECONDS", outage.TRY_SECONDS))
    outage.TOLD_AFTER = ledger.TOLD_AFTER = float(os.environ.get("OVIS_TOLD_AFTER", ledger.TOLD_AFTER))
    heartbeat, ttl = map(float, sys.argv[1:3])
    raise SystemExit(main(sys.argv[3:], STUB, Policy(heartbeat=heartbeat, ttl=ttl, backoff=heartbeat / 4)))
