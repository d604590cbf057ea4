"""Storms over an experiment: 500 acts of 14 kinds are one by hand, see storm.py; these are short ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import has_compiler
from laboratory import Lab
from storm import ACTS, Storm, run_undisturbed

from ovis.experiments.runner.queue.retry_policy import Policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not has_compiler(), reason="needs a C compiler"),
]


def test_a_storm_over_stubs_loses_doubles_and_marks_nothing_wrongly(lab: Lab) -> None:
    lab.policy = Policy(heartbeat=0.25, ttl=1.5)
    verdict = Storm(lab, acts=60, seeds=10, seed=1).run()
    print(verdict)
    assert verdict.holds, verdict
    assert sum(verdict.acts.values()) == 60
    assert verdict.acts.keys() <= ACTS.keys()
    assert verdict.faults > 0
    assert verdict.attempts > verdict.runs


def test_a_storm_over_real_trainings_leaves_their_results_bit_identical(tmp_path: Path) -> None:
    labs = []
    for name in ("storm", "quiet"):
        (tmp_path / name).mkdir()
        labs.append(Lab(tmp_path / name, Policy(heartbeat=1.0, ttl=6.0)))
    storm = Storm(labs[0], acts=10, seeds=1, real=True, pause=(0.2, 1.0), stop=(0.1, 8.0), slots=2, seed=1)
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
    storm = Storm(lab, acts=100, seeds=1, real=True, slots=2, timeout=120.0, **faults)
    assert storm.run().mismarked > 0
