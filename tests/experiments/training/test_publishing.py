"""Publishing results: a superseded attempt writes nothing, a full disk is reported in one line."""

import errno
import json
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from resume_cases import CASES
from resume_lab import KILLED, Plan, left_by, unequal, words_of
from train_run import train

from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import describe_file_error
from ovis.experiments.runs.status import STALE
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.checkpoint import CheckpointError
from ovis.experiments.training.journal import MetricsWriter

DIGITS = CASES["digits"]


def published(paths):
    """The files that a run has published, without its log and its progress."""
    unpublished = ("log.", "progress.json", ".attempt", "events")
    return {path.name: path.read_bytes() for path in paths.folder.iterdir() if not path.name.startswith(unpublished)}


@pytest.mark.parametrize("seconds", [-1, 1e9], ids=["before a checkpoint", "before an evaluation"])
def test_a_superseded_attempt_stops_without_writing(lab, seconds):
    name = f"superseded-{seconds}"
    paths = lab.paths(name)
    assert lab.start(name, DIGITS, Plan("best.saved")) == KILLED
    before = published(paths)
    assert lab.start(name, DIGITS, Plan(usurp=12, seconds=seconds)) == STALE
    after = published(paths)
    if seconds < 0:  # until then it was not superseded
        assert torch.load(paths.checkpoint, weights_only=True)["position"]["step"] == 12
        for part in ("checkpoint.pt", "checkpoint.previous.pt"):
            before.pop(part, None)
            after.pop(part)
    assert {**after, "config.json": b""} == {**before, "config.json": b""}
    (line,) = [line for line in lab.output.splitlines() if line.startswith("error: ")]
    assert line == f"error: attempt 2 is superseded, {paths.fence} says 99: nothing more is written"
    assert "Traceback" not in lab.output


def test_an_attempt_that_was_superseded_before_it_starts_touches_nothing(lab):
    paths = lab.paths("late")
    paths.folder.mkdir()
    paths.fence.write_text("5\n")
    assert lab.start("late", {**DIGITS, "attempt": 4}) == STALE
    assert [path.name for path in paths.folder.iterdir()] == [".attempt"]


@pytest.fixture(scope="module")
def whole(lab):
    return lab.finish("whole", DIGITS)


def test_a_disk_too_small_for_a_checkpoint_is_one_line_and_a_larger_one_leads_to_the_same_end(lab, whole):
    name, paths = "full", lab.paths("full")
    assert lab.start(name, DIGITS, Plan("best.saved")) == KILLED
    good = paths.checkpoint.read_bytes()
    assert lab.start(name, DIGITS, Plan(limit=len(good) // 2)) == 1
    assert lab.output.splitlines()[-1] == f"error: File too large: {paths.checkpoint}"
    assert "Traceback" not in lab.output
    assert paths.checkpoint.read_bytes() == good
    assert not list(paths.folder.glob(".tmp-*"))
    assert unequal(lab.finish(name, DIGITS), whole) == []


def test_errors_that_pass_are_waited_for(lab, whole):
    """Each file fails to be flushed and to be renamed, once: the run goes on, and its results are the same."""
    assert unequal(lab.finish("faults", DIGITS, Plan(faults=True)), whole) == []
    faults = [line for line in lab.output.splitlines() if line.startswith("injected into ")]
    assert all(line.endswith("; tried again for up to 60 s") for line in faults)
    names = ("metrics.jsonl", "checkpoint.pt", "best.pt", "best.json", "config.json", "outcome.json", "events.out")
    for name in names:
        assert any(name in line for line in faults), (name, faults)


def test_a_line_of_metrics_is_written_whole_or_not_at_all(tmp_path):
    writer = MetricsWriter(RunPaths(tmp_path))
    writer.evaluation(1, 1.0, 0.5, {"a:b/c": 1.0})
    good = writer.paths.metrics.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 10, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            writer.evaluation(2, 2.0, 1.0, {"a:b/c": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(writer.paths.metrics)
    assert writer.paths.metrics.read_bytes() == good
    writer.evaluation(2, 2.0, 1.0, {"a:b/c": 2.0})
    assert [json.loads(line)["step"] for line in writer.paths.metrics.read_text().splitlines()] == [1, 2]


def test_what_is_cut_when_a_run_goes_on(tmp_path):
    paths = RunPaths(tmp_path)
    paths.metrics.write_bytes(b'{"step": 1}\n{"step": 2}\n[]\n\xff\x00\n{"step": 3}\n{"step": 2, "a:b/')
    MetricsWriter(paths, 2)
    assert paths.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


#: An evaluation at each step.
STEPS = {"dataset": "gaussian-toy", "N": 3, "grad_key": "A,b", "estimator": "iwae", "iw": 2, "lr": 0.1, "nsteps": 5,
         "bs": 5000, "eval_freq": 1, "max_eval": 4, "iw_valid": 2, "iw_test": 2, "grad_samples": 0}  # fmt: skip

METRICS_DAMAGES = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_text(""),
    "first line": lambda path: path.write_text(path.read_text().partition("\n")[2]),
    "a line in the middle": lambda path: path.write_text(path.read_text().replace('{"step": 2,', '{"step": \0,')),
    "cut": lambda path: path.write_text(path.read_text()[:-5]),
    "no lines": lambda path: path.write_text("[1, 2]\n" * 3),
}


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A run that was stopped after evaluations at the steps 1, 2 and 3, of 5."""
    paths, asked = RunPaths(tmp_path_factory.mktemp("stopped")), []
    complete = train(build_run(TrainSettings(**STEPS)), paths, stop=lambda: asked.append(1) or len(asked) > 2)
    assert not complete
    assert [json.loads(line)["step"] for line in paths.metrics.read_text().splitlines()] == [1, 2, 3]
    return paths


@pytest.mark.parametrize("damage", METRICS_DAMAGES)
def test_a_run_whose_metrics_do_not_reach_its_checkpoint_does_not_resume(damage, stopped_run, tmp_path):
    """Its best and its mean would be those of another run."""
    paths = RunPaths(tmp_path / "run")
    shutil.copytree(stopped_run.folder, paths.folder)
    METRICS_DAMAGES[damage](paths.metrics)
    before = paths.metrics.read_bytes() if paths.metrics.exists() else None
    with pytest.raises(CheckpointError, match=r"has no evaluation at step \d, but .* --requeue KEY --fresh") as info:
        train(build_run(TrainSettings(**STEPS)), paths)
    assert "\n" not in str(info.value)
    assert str(info.value).startswith(str(paths.metrics))
    assert (paths.metrics.read_bytes() if paths.metrics.exists() else None) == before  # perhaps it can be repaired
    shutil.copy(stopped_run.metrics, paths.metrics)
    assert train(build_run(TrainSettings(**STEPS)), paths)
    assert [json.loads(line)["step"] for line in paths.metrics.read_text().splitlines()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/checkpoint.pt"), "disk full: a/checkpoint.pt"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/checkpoint.pt"), "disk quota used up: a/checkpoint.pt"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "Permission denied: a"),
        (OSError("something"), "something"),
        (OSError(), "OSError"),
    ],
)
def test_the_description_of_a_file_error(error, message):
    assert describe_file_error(error) == message


IMPATIENT = """
from ovis.experiments.cli.train import main
from ovis.experiments.runs import retrying
retrying.RETRY_SECONDS = 0.5
raise SystemExit(main())
"""

SMALL_DISK = """
set -e
mount -t tmpfs -o size=$1 none "$2"
set +e; "${@:3}"; echo "code $?"; set -e
mount -o remount,size=64m "$2"
"${@:3}" > /dev/null
cp -a "$2" "$2-copy"
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["24k", "64k", "80k", "96k", "112k", "128k", "160k"])
def test_a_disk_that_is_really_full(size, tmp_path, whole):
    """The disk is large enough for two checkpoints, for one, or for none. With more space the run resumes."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = {**DIGITS, "root": disk, "run_dir": disk / "run"}
    words = [sys.executable, "-c", IMPATIENT, *words_of(options)]
    command = ["unshare", "-m", "bash", "-c", SMALL_DISK, "bash", size, disk, "env", "OMP_NUM_THREADS=1", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    if "code 0" not in result.stdout:
        assert "code 74" in result.stdout
        assert result.stderr.splitlines()[0].startswith("error: disk full: "), result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert unequal(left_by(RunPaths(tmp_path / "disk-copy" / "run")), whole) == []
