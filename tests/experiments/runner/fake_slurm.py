"""Scripts in place of Slurm's commands: they note their arguments and print what a test sets, as Slurm 22.05 does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovis.experiments.runner.engines.engine_options import SlurmOptions
from ovis.experiments.runner.engines.interface import EngineRequest, JobHandle, JobPhase, JobStatus
from ovis.experiments.runner.engines.slurm import SlurmEngine
from ovis.experiments.runner.job import JobSpec

SINFO = """\
main*|n1|8|gpu:2,shard:4|mix
short|n1|8|gpu:2,shard:4|mix
main*|n2|8|gpu:2,shard:4|idle
short|n2|8|gpu:2,shard:4|idle
"""

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"

SCRIPT = """#!/bin/bash
name=$(basename "$0"); here={here}
echo "$name $*" >>"$here/calls"
if [[ $name == sbatch && $* != *--test-only* ]]; then
    script=$(cat)
    if [[ -e $here/limit ]]; then  # jobs that the site still takes
        last=$(grep -oP -- '--array=0-\\K[0-9]+' <<<"$script"); left=$(($(cat "$here/limit") - ${{last:-0}} - 1))
        if ((left < 0)); then echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1; fi
        echo $left >"$here/limit"
    fi
    number=$(($(ls "$here" | grep -c '^script') + 1)); echo "$script" >"$here/script$number"
    env | grep -E '^(SBATCH|SLURM_ARRAY)_' | sort >"$here/environment"
    [[ -e $here/sbatch.error ]] || echo "$number;cluster"
fi
[[ $name == sbatch ]] || cat "$here/$name.out" 2>/dev/null
if [[ -e $here/$name.error ]]; then cat "$here/$name.error" >&2; exit 1; fi
"""


@dataclass
class FakeSlurm:
    """The scripts, which precede Slurm's own commands in the search path.

    Attributes:
        folder: the scripts, and the files by which they communicate with the test.
    """

    folder: Path

    @classmethod
    def install(cls, folder: Path, patch: pytest.MonkeyPatch) -> FakeSlurm:
        folder.mkdir()
        for name in ("sbatch", "squeue", "scancel", "sinfo", "scontrol"):
            script = folder / name
            script.write_text(SCRIPT.format(here=folder))
            script.chmod(0o755)
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        fake = cls(folder)
        fake.say("sinfo", SINFO)
        fake.say("scontrol", "Configuration data as of 2026-11-23T01:50:57\nMaxArraySize            = 1001\n")
        return fake

    def say(self, name: str, text: str) -> None:
        """Set the output of a command; for squeue the name of one of our jobs is added to lines without one."""
        if name == "squeue":
            text = "".join(f"{line}{'|ovis-lab' * (line.count('|') == 3)}\n" for line in text.splitlines())
        fresh = self.folder / f"{name}.fresh"
        fresh.write_text(text)
        fresh.replace(self.folder / f"{name}.out")  # atomically: it may be read at the same time

    def fail(self, name: str, text: str = "") -> None:
        """Let a command fail with an error message; empty: let it succeed again."""
        path = self.folder / f"{name}.error"
        if text:
            path.write_text(text + "\n")
        else:
            path.unlink()

    def take(self, jobs: int) -> None:
        """Set how many more jobs Slurm accepts."""
        (self.folder / "limit").write_text(f"{jobs}\n")

    def calls(self, name: str) -> list[str]:
        """The arguments of the calls of a command so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.split(" ")[0] == name]

    def script(self, number: int) -> list[str]:
        """The lines of a submitted batch script, counted from 1."""
        return (self.folder / f"script{number}").read_text().splitlines()


def engine_at(root: Path, *, device: str = "auto", processes: int | None = None, **options: object) -> SlurmEngine:
    engine = SlurmEngine(SlurmOptions(**options), EngineRequest(device, processes))  # type: ignore[arg-type]
    engine.check(root)
    return engine


def specs(root: Path, count: int) -> list[JobSpec]:
    return [JobSpec(root / "lab", f"key{number}", 1) for number in range(count)]


def submit(engine: SlurmEngine, root: Path, count: int = 1) -> list[str]:
    handles = engine.submit(specs(root, count))
    assert all(isinstance(handle, JobHandle) for handle in handles)
    return [handle.id for handle in handles if isinstance(handle, JobHandle)]


def poll(engine: SlurmEngine, *ids: str) -> dict[str, JobStatus]:
    """The status of the jobs once squeue has been asked again and has answered."""
    begin, watch = time.monotonic(), engine._watch

    def answered(statuses: dict[str, JobStatus]) -> bool:
        ended = all(status.phase is JobPhase.ENDED for status in statuses.values())
        return watch.listing.asked > begin or bool(watch.silence) or ended

    return poll_until(engine, ids, answered)


def poll_until(
    engine: SlurmEngine, ids: Collection[str], condition: Callable[[dict[str, JobStatus]], object]
) -> dict[str, JobStatus]:
    """The first status of the jobs for which a condition holds."""
    deadline = time.monotonic() + 10
    while not condition(statuses := dict(engine.poll(ids))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return statuses
