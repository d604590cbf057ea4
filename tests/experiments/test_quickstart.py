"""The README's first command in a copy of the clone, through a killed manager, from the first run to the figure."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_readmes_command_survives_a_killed_manager_and_shows_who_wins(tmp_path):
    for name in ("ovis", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manager.py", tmp_path)
    command = re.search(r"&& python (manager\.py [^`\n]*quickstart[^`\n]*)", (ROOT / "README.md").read_text())
    words = [sys.executable, *command[1].split()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": environment}
    manager = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True, **options)
    folder, reports = tmp_path / "runs" / "quickstart", tmp_path / "reports"
    limit = time.monotonic() + 300
    while len(list(folder.glob("*/checkpoint.pt"))) < 2 and time.monotonic() < limit:
        time.sleep(0.2)
    os.kill(manager.pid, signal.SIGKILL)
    manager.wait()
    assert len(list(folder.glob("*/success.txt"))) < 7, "it was killed too late to show anything"

    again = subprocess.run(words, capture_output=True, text=True, timeout=800, **options)
    assert again.returncode == 0, again.stdout + again.stderr
    runs = [path.parent for path in folder.glob("*/outcome.json")]
    assert len(runs) == 7
    assert all(json.loads((run / "outcome.json").read_text())["status"] == "success" for run in runs)
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(280, 2801, 280)), run.name

    figure = next(reports.rglob("curves.png"))
    assert str(figure.relative_to(tmp_path)) in again.stdout
    with next(reports.rglob("pivot.csv")).open() as file:
        rows = list(csv.DictReader(file))
    best = {row["estimator"]: float(row["max:test:loss/L_k"]) for row in rows}
    assert min(best, key=best.get) == "reinforce"
    others = [value for name, value in best.items() if name != "reinforce"]
    assert min(others) > best["reinforce"] + 2  # three nats apart when it was written; the others within one
