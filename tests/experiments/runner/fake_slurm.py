"""Slurm's commands as scripts that note how they were called and print what a test wants; as Slurm 22.05 prints it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    if [[ -e $here/room ]]; then  # jobs that the site still takes
        last=$(grep -oP -- '--array=0-\\K[0-9]+' <<<"$script"); left=$(($(cat "$here/room") - ${{last:-0}} - 1))
        if ((left < 0)); then echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1; fi
        echo $left >"$here/room"
    fi
    number=$(($(ls "$here" | grep -c '^script') + 1)); echo "$script" >"$here/script$number"
    env | grep ^SBATCH_ | sort >"$here/environment"
    [[ -e $here/sbatch.error ]] || echo "$number;cluster"
fi
[[ $name == sbatch ]] || cat "$here/$name.out" 2>/dev/null
if [[ -e $here/$name.error ]]; then cat "$here/$name.error" >&2; exit 1; fi
"""


@dataclass
class FakeSlurm:
    """The commands, in front of the path.

    Attributes:
        folder: where they and their papers are.
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
        """What a command prints from now on; squeue adds the name of a job of ours to the fields of a line."""
        if name == "squeue":
            text = "".join(f"{line}{'|ovis-lab' * (line.count('|') == 3)}\n" for line in text.splitlines())
        fresh = self.folder / f"{name}.fresh"
        fresh.write_text(text)
        fresh.replace(self.folder / f"{name}.out")  # at once: somebody may be reading

    def fail(self, name: str, text: str = "") -> None:
        """What a command complains of from now on; empty: nothing any more."""
        path = self.folder / f"{name}.error"
        if text:
            path.write_text(text + "\n")
        else:
            path.unlink()

    def take(self, jobs: int) -> None:
        """How many more jobs are taken from now on."""
        (self.folder / "room").write_text(f"{jobs}\n")

    def calls(self, name: str) -> list[str]:
        """How a command was called so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.split(" ")[0] == name]

    def script(self, number: int) -> list[str]:
        """The lines of a batch script that was handed over."""
        return (self.folder / f"script{number}").read_text().splitlines()

    def scripts(self) -> int:
        """How many were."""
        return len(list(self.folder.glob("script*")))
