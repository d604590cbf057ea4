"""Storms over an experiment: short ones; for those of hundreds of acts see storm.py."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FUNCTIONS, Faults, has_compiler
from laboratory import Lab
from storm import ACTS, Storm, run_undisturbed

from ovis.experiments.runner.queue.retry_policy import Policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not has_compiler(), reason="no cc: the faults need a C compiler"),
]

#: Makes and changes a file and a folder in the folder given, by one call of each kind, and prints the errors.
CALLS = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.chdir(folder)
handle = os.open("file", os.O_RDWR)  # faults know files by their absolute paths
calls = {
    "write": lambda: os.write(handle, b"text"),
    "fsync": lambda: os.fsync(handle),
    "rename": lambda: os.replace(folder / "file", folder / "new"),
    "open": lambda: open(folder / "other", "w"),
    "mkdir": lambda: os.mkdir(folder / "sub"),
    "unlink": lambda: os.unlink(folder / "spare"),
    "utime": lambda: os.utime(folder),
}
errors = {}
for name, call in calls.items():
    try:
        call()
    except OSError as error:
        errors[name] = error.errno
print(json.dumps(errors))
"""


def test_a_fault_concerns_one_function_and_one_folder_for_a_time(tmp_path: Path) -> None:
    """The storms' own test: that what should fail does."""
    faults = Faults(tmp_path, tmp_path / "inside")

    def errors(place: str) -> dict[str, int]:
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name in ("file", "spare"):
            (folder / name).touch()
        words = [sys.executable, "-c", CALLS, str(folder)]
        output = subprocess.run(words, env={**os.environ, **faults.environment}, capture_output=True, check=True)
        found: dict[str, int] = json.loads(output.stdout)
        return found

    for count, function in enumerate(FUNCTIONS):
        faults.inject(function, errno.ESTALE, 60.0)
        assert errors(f"elsewhere/{function}") == {}
        assert errors(f"inside/{function}") == {function: errno.ESTALE}
        assert faults.count == count + 1
    faults.inject("write", errno.EIO, 0.0)
    assert errors("inside/later") == {}


def test_a_storm_over_stubs_loses_doubles_and_marks_nothing_wrongly(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.25, ttl=1.5)
    verdict = Storm(lab, acts=40, seeds=8, seed=1).run()
    print(verdict)
    assert verdict.holds, verdict
    assert sum(verdict.acts.values()) == 40
    assert verdict.acts.keys() <= ACTS.keys()
    assert verdict.faults > 0
    assert verdict.attempts > verdict.runs


def test_a_storm_over_real_trainings_leaves_their_results_bit_identical(tmp_path: Path) -> None:
    labs = []
    for name in ("storm", "quiet"):
        (tmp_path / name).mkdir()
        labs.append(Lab(tmp_path / name, Policy(heartbeat=1.0, ttl=6.0)))
    storm = Storm(labs[0], acts=6, seeds=1, real=True, pause=(0.2, 1.0), stop=(0.1, 4.0), slots=2, seed=1)
    assert storm.run().holds, storm.verdict
    run_undisturbed(labs[1], seeds=1, slots=2)
    storm.compare(labs[1])
    print(storm.verdict)
    assert storm.verdict.holds, storm.verdict
    assert storm.verdict.compared == storm.verdict.disturbed == 3


def test_without_retries_the_same_faults_fail_runs(lab: Lab) -> None:
    """What shows that a storm can fail."""
    lab.policy = Policy(heartbeat=1.0, ttl=6.0)
    faults = {"weights": {"fault": 1}, "functions": ["rename"], "unguarded": "retry"}
    storm = Storm(lab, acts=100, seeds=1, real=True, managers=1, slots=1, timeout=120.0, **faults)
    assert storm.run().mismarked > 0
