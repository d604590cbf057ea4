"""The code a sweep runs on: what is copied, where it came from, and what a kill, a hand or a second manager does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from laboratory import STUB, Lab, record

from ovis.experiments.runner import plan as plan_module
from ovis.experiments.runner import snapshot
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.snapshot import Snapshot, is_intact, live_package, read_code, take_snapshot
from ovis.experiments.runs.process import new_owner
from ovis.experiments.runs.status import read_outcome

ONE = {"args": ["--estimator vimco --iw 2"]}


@pytest.fixture
def live(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is taken for the code at hand. What it lacks is found in the real one."""
    package = lab.folder / "clone" / "ovis"
    write(package / "__init__.py", f"__version__ = 'of the clone'\n__path__.append({str(live_package())!r})\n")
    write(package / "models" / "vae.py", "width = 10\n")
    monkeypatch.setattr(plan_module, "live_package", lambda: package)
    return package


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def make_clone(folder: Path) -> str:
    """A git clone of what is there; its commit."""
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def take(lab: Lab, package: Path) -> Snapshot:
    return take_snapshot(lab.paths, read_code(package), {"lr": 0.1})


def current(lab: Lab) -> Snapshot:
    """The snapshot that the sweep runs on."""
    taken = lab.queue.snapshot()
    assert taken is not None
    return taken


def copies(lab: Lab) -> set[str]:
    return {path.name for path in lab.paths.snapshots.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what is copied


def test_a_copy_holds_the_package_and_nothing_else(lab: Lab, live: Path) -> None:
    write(live / "py.typed", "")
    write(live / "new" / "data.json", "{}")
    write(live / "reports" / "page.html.j2", "")
    for rubbish in ("__pycache__/a.cpython-311.pyc", "models/__pycache__/b.pyc", ".vae.py.swp", ".idea/x", "old.pyc"):
        write(live / rubbish, "rubbish")
    for foreign in ("id_rsa", "token.txt", "models/weights.npy", "vae.py~", "core.1234"):
        write(live / foreign, "rubbish")
    (live / "broken").symlink_to("nowhere")
    os.mkfifo(live / "pipe")
    taken = take(lab, live)
    names = ["__init__.py", "models/vae.py", "new/data.json", "py.typed", "reports/page.html.j2"]
    assert sorted(contents(lab.paths.snapshot(taken.id))) == ["changes.diff", *(f"ovis/{name}" for name in names)]
    assert taken.digest.startswith(taken.id)
    assert len(taken.id) == 12
    assert copies(lab) == {taken.id}


def test_a_copy_holds_what_an_installed_package_holds() -> None:
    tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11")
    package = live_package()
    declared = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    paths = (path for pattern in ("**/*.py", *declared["ovis"]) for path in package.glob(pattern))
    expected = {path for path in paths if path.is_file()}
    assert {package / name for name in read_code(package).modes} == expected
    assert len(expected) > 200


def test_permissions_are_kept(lab: Lab, live: Path) -> None:
    write(live / "private" / "keys.py", "key = 1\n")
    modes = {"private/keys.py": 0o600, "models/vae.py": 0o444, "__init__.py": 0o755}
    for name, mode in modes.items():
        (live / name).chmod(mode)
    package = lab.paths.snapshot(take(lab, live).id) / "ovis"
    assert {name: stat.S_IMODE((package / name).stat().st_mode) for name in modes} == modes


def test_links_are_not_followed_out_of_the_package(lab: Lab, live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(lab.folder / "secret.py", "password = 1\n")
    write(lab.folder / "elsewhere" / "module.py", "")
    (live / "secret.py").symlink_to(lab.folder / "secret.py")
    (live / "models" / "elsewhere").symlink_to(lab.folder / "elsewhere")
    (live / "token").symlink_to(lab.folder / "secret.py")
    (live / "alias.py").symlink_to(live / "models" / "vae.py")
    lab.write(**ONE)
    assert lab.run() == 0
    assert "symbolic links are not copied with the code, 2 in" in capsys.readouterr().out
    (package,) = lab.paths.snapshots.glob("*/ovis")
    assert sorted(contents(package)) == ["__init__.py", "alias.py", "models/vae.py"]
    assert not (package / "alias.py").is_symlink()


@pytest.mark.parametrize("option", [[], ["--dry_run"]])
def test_a_package_that_is_too_large_is_refused_by_its_largest_file(
    lab: Lab, live: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    write(live / "models" / "table.csv", "")
    os.truncate(live / "models" / "table.csv", 300_000_000)
    lab.write(**ONE)
    assert lab.run(*option) == 2
    assert capsys.readouterr().err == (
        f"manager.py: {live}/models/table.csv: 300.0 MB, but the code of a sweep is copied, and may have 20 MB in all: "
        f"keep data outside of the package\n"
    )
    assert not lab.paths.folder.exists()


def test_a_dry_run_reads_only_what_it_compares(lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), real(path))[1])
    write(live / "models" / "array.npy", "numbers")
    lab.write(**ONE)
    assert lab.run("--dry_run") == 0
    assert not [path for path in read if path.is_relative_to(live)]
    assert lab.run() == 0
    assert sorted(path.name for path in read if path.is_relative_to(live)) == ["__init__.py", "vae.py"]


def test_code_that_cannot_be_read_deletes_nothing(lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(**ONE)
    assert lab.run() == 0
    before = contents(lab.paths.folder)

    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert lab.run("--rf", "--yes") == 2
    monkeypatch.undo()
    assert contents(lab.paths.folder) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("models/vae.py", "width = 11\n"),
        ("models/vae2.py", ""),
        ("models/vae.pywidth = 10\n.py", ""),
        ("untracked.py", ""),
    ],
)
def test_the_hash_is_of_names_and_contents(live: Path, name: str, text: str) -> None:
    before = read_code(live).digest
    assert read_code(live).digest == before
    write(live / name, text)
    assert read_code(live).digest != before


def test_python_may_write_its_bytecode_into_a_copy(lab: Lab, live: Path) -> None:
    taken = take(lab, live)
    folder = lab.paths.snapshot(taken.id)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import ovis.models.vae"], cwd=folder, env=environment, check=True)
    assert list(folder.rglob("*.pyc"))
    assert is_intact(lab.paths, taken.id, taken.digest)


def test_what_cannot_be_read_is_no_copy_with_a_hole(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, onerror: object) -> None:
        onerror(PermissionError(13, "Permission denied", "models"))  # type: ignore[operator]

    monkeypatch.setattr(snapshot.os, "walk", walk)
    with pytest.raises(PermissionError):
        read_code(live)


# -- where it came from


def test_the_commit_and_the_changes_are_known(lab: Lab, live: Path) -> None:
    commit = make_clone(live.parent)
    clean = take(lab, live)
    assert (clean.commit, clean.dirty, clean.diff) == (commit, False, "")
    assert f"(commit {commit[:7]})" in str(clean)
    write(live.parent / "README.md", "no code\n")
    write(live / "models" / "vae.py", "width = 11\n")
    write(live / "stray.py", "")
    dirty = take(lab, live)
    assert (dirty.commit, dirty.dirty) == (commit, True)
    assert f"(commit {commit[:7]} with changes)" in str(dirty)
    assert dirty.diff.startswith("# not in git: ovis/stray.py\ndiff --git a/ovis/models/vae.py b/ovis/models/vae.py\n")
    assert "-width = 10\n+width = 11\n" in dirty.diff
    assert "README" not in dirty.diff
    file = lab.paths.snapshot(dirty.id) / "changes.diff"
    assert file.read_text() == dirty.diff
    git(live.parent, "checkout", "-q", "ovis/models/vae.py")
    git(live.parent, "apply", str(file))
    assert read_code(live).digest == dirty.digest


def test_a_long_diff_is_whole_in_its_file_only(lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clone(live.parent)
    write(live / "models" / "vae.py", "width = 11\n" * 1000)
    monkeypatch.setattr(snapshot, "MAX_DIFF", 500)
    taken = take(lab, live)
    whole = (lab.paths.snapshot(taken.id) / "changes.diff").read_text()
    assert whole.count("+width") == 1000
    assert taken.diff[:500] == whole[:500]
    assert taken.diff[500:].splitlines()[-1] == "[cut: changes.diff of the snapshot is whole]"


def test_a_clone_around_an_installed_package_is_not_its_origin(lab: Lab, live: Path) -> None:
    write(live.parent / ".gitignore", "ovis/\n")
    make_clone(live.parent)
    taken = take(lab, live)
    assert (taken.commit, taken.dirty, taken.diff) == ("", False, "")
    assert "(version 0.1.0)" in str(taken)


@pytest.mark.parametrize("program", [None, "#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\necho 'fatal: no' >&2; exit 128\n"])
def test_git_may_be_absent_or_silent(
    lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    make_clone(live.parent)
    (lab.folder / "bin").mkdir()
    if program:
        write(lab.folder / "bin" / "git", program)
        (lab.folder / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{lab.folder / 'bin'}{':/bin:/usr/bin' if program else ''}")
    monkeypatch.setattr(snapshot, "GIT_TIMEOUT", 0.2)
    assert take(lab, live).commit == ""
    assert lab.paths.snapshots.is_dir()


def test_git_is_not_misled_by_our_variables(lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = make_clone(live.parent)
    write(lab.folder / "other" / "file", "")
    make_clone(lab.folder / "other")
    monkeypatch.setenv("GIT_DIR", str(lab.folder / "other" / ".git"))
    assert take(lab, live).commit == commit


# -- kills, second managers, damage


def test_a_kill_while_copying_leaves_rubbish_that_is_swept(lab: Lab) -> None:
    lab.write(**ONE)
    manager = lab.start(OVIS_FAILPOINT="snapshot.copied")
    manager.communicate(timeout=30)
    assert manager.returncode == -signal.SIGKILL
    assert not lab.paths.ledger.exists()
    (rubbish,) = lab.paths.snapshots.iterdir()
    assert lab.run() == 0
    used = current(lab)
    assert copies(lab) == {used.id, rubbish.name}  # it is young: another manager might be at it
    os.utime(rubbish, (1, 1))
    assert lab.run() == 0
    assert copies(lab) == {used.id}
    assert [r.snapshot for r in lab.records()] == [used.id]


def test_two_managers_that_make_the_same_copy_are_no_harm(
    lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(name: str) -> None:
        monkeypatch.setattr(snapshot, "failpoint", lambda name: None)
        take(lab, live)

    monkeypatch.setattr(snapshot, "failpoint", other)
    taken = take(lab, live)
    assert is_intact(lab.paths, taken.id, taken.digest)
    assert copies(lab) == {taken.id}


def test_a_full_disk_leaves_nothing(lab: Lab, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(**ONE)

    def full(name: str) -> None:
        raise OSError(28, "No space left on device", "vae.py")

    monkeypatch.setattr(snapshot, "failpoint", full)
    assert lab.run() == 2
    assert copies(lab) == set()
    assert not lab.paths.ledger.exists()


DAMAGES = {
    "changed": lambda package: write(package / "models" / "vae.py", "width = 1000\n"),
    "added": lambda package: write(package / "torch.py", ""),
    "missing": lambda package: (package / "models" / "vae.py").unlink(),
    "gone": lambda package: package.rename(package.with_name("away")),
}


@pytest.mark.parametrize(("damage", "remedy"), [*((name, "--update_lib") for name in DAMAGES), ("changed", "--rf")])
def test_a_damaged_copy_is_refused(
    lab: Lab, live: Path, capsys: pytest.CaptureFixture[str], damage: str, remedy: str
) -> None:
    lab.write(**ONE)
    assert lab.run() == 0
    first = current(lab)
    DAMAGES[damage](lab.paths.snapshot(first.id) / "ovis")
    write(live / "models" / "vae.py", "width = 20\n")
    before = contents(lab.folder)
    capsys.readouterr()
    assert lab.run() == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert str(lab.paths.snapshot(first.id)) in shown
    assert "--update_lib" in shown
    assert contents(lab.folder) == before
    assert lab.run(remedy, "--yes") == 0
    second = current(lab)
    assert second.digest == read_code(live).digest != first.digest
    assert is_intact(lab.paths, second.id, second.digest)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_of_the_code_at_hand_is_written_again(lab: Lab, live: Path, damage: str) -> None:
    lab.write(**ONE)
    assert lab.run() == 0
    taken = current(lab)
    DAMAGES[damage](lab.paths.snapshot(taken.id) / "ovis")
    assert lab.run() == 0
    assert is_intact(lab.paths, taken.id, taken.digest)
    assert copies(lab) == {taken.id}


def test_a_job_whose_snapshot_is_gone_runs_on_no_other_code(lab: Lab, live: Path) -> None:
    queue = lab.queue
    taken = take(lab, live)
    queue.add([record()], taken)
    (claimed,) = queue.tick(new_owner(), 1).claimed
    assert claimed.snapshot == taken.id
    (lab.paths.snapshot(taken.id) / "ovis" / "__init__.py").unlink()
    spec = JobSpec(queue.paths.folder, claimed.key, 1, command=STUB)
    assert subprocess.run(spec.argv()).returncode == 0
    outcome = read_outcome(queue.paths.run(claimed.name))
    assert outcome is not None
    assert str(lab.paths.snapshot(taken.id)) in outcome.message
    assert "--update_lib" in outcome.message
    assert not (queue.paths.run(claimed.name).folder / "journal.txt").exists()


# -- the ledger


def test_the_current_snapshot_is_the_last_one_and_old_ones_go_with_their_last_run(lab: Lab, live: Path) -> None:
    queue = lab.queue
    taken = []
    for width in range(3):
        write(live / "models" / "vae.py", f"width = {width}\n")
        taken.append(take(lab, live))
        queue.add([record(f"{width:012x}")], taken[-1])
        assert queue.snapshot() == taken[-1]
        if width != 1:  # nothing ever runs on the second one
            (claimed,) = queue.tick(new_owner(), 1).claimed
            assert claimed.snapshot == taken[-1].id
    first, second, third = (one.id for one in taken)
    rows = json.loads(lab.paths.ledger.read_text())["snapshots"]
    assert [row["id"] for row in rows.values()] == [first, third]
    assert rows["1"]["defaults"] == {"lr": 0.1}
    queue.remove_stale()
    assert copies(lab) == {first, second, third}
    for folder in lab.paths.snapshots.iterdir():
        os.utime(folder, (1, 1))
    queue.remove_stale()
    assert copies(lab) == {first, third}
    queue.add([], taken[0])  # back to the first one
    assert queue.snapshot() == taken[0]


def test_a_copy_that_is_wanted_again_is_spared(lab: Lab, live: Path) -> None:
    lab.queue.add([record()])
    taken = take(lab, live)
    os.utime(lab.paths.snapshot(taken.id), (1, 1))
    take(lab, live)
    lab.queue.remove_stale()
    assert copies(lab) == {taken.id}


def test_starting_from_scratch_takes_a_new_one(lab: Lab, live: Path) -> None:
    lab.write(**ONE)
    assert lab.run() == 0
    before = current(lab)
    write(live / "models" / "vae.py", "width = 20\n")
    assert lab.run("--rf", "--yes") == 0
    after = current(lab)
    assert after.digest == read_code(live).digest
    assert copies(lab) == {after.id} != {before.id}
    assert not list(lab.paths.folder.glob(".trash-*"))


def test_a_ledger_of_before_has_no_snapshots_and_gets_one(lab: Lab, live: Path) -> None:
    path = lab.write(**ONE)
    from ovis.experiments.runner.experiment_file import load_experiment

    lab.queue.add([run.record() for run in load_experiment(path).runs])
    data = json.loads(lab.paths.ledger.read_text())
    assert list(data) == ["runs"]
    for row in data["runs"].values():
        row.pop("snapshot", None)
    lab.paths.ledger.write_text(json.dumps(data))
    assert lab.queue.snapshot() is None
    assert lab.run() == 0
    assert [r.snapshot for r in lab.records()] == [read_code(live).id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "../../etc"}, "unsafe id"),
        ({"id": 3}, "'id'"),
        ({"digest": None}, "'digest'"),
        ({"dirty": "no"}, "'dirty'"),
        ({"time": "now"}, "'time'"),
        ({"defaults": []}, "'defaults'"),
        (None, "not an object"),
    ],
)
def test_a_broken_table_of_snapshots_is_one_clear_line(
    lab: Lab, live: Path, change: dict[str, object] | None, message: str
) -> None:
    queue = lab.queue
    queue.add([record()], take(lab, live))
    data = json.loads(lab.paths.ledger.read_text())
    data["snapshots"]["1"] = None if change is None else {**data["snapshots"]["1"], **change}
    lab.paths.ledger.write_text(json.dumps(data))
    for request in (queue.read, queue.snapshot, lambda: queue.tick(new_owner(), 1)):
        with pytest.raises(LedgerError, match=rf"^[^\n]*queue [^\n]+snapshot 1 [^\n]*{message}[^\n]*$"):
            request()


@pytest.mark.parametrize("name", ["../evil", "/etc", 3])
def test_a_run_cannot_lead_its_training_elsewhere(lab: Lab, name: object) -> None:
    lab.queue.add([record()])
    data = json.loads(lab.paths.ledger.read_text())
    data["runs"]["1"]["snapshot"] = name
    lab.paths.ledger.write_text(json.dumps(data))
    with pytest.raises(LedgerError, match="snapshot"):
        lab.queue.read()


def test_taking_a_snapshot_is_quick(lab: Lab) -> None:
    begin = time.monotonic()
    take(lab, snapshot.live_package())
    assert time.monotonic() - begin < 2.0


# -- deleted while a sweep runs


def delete_during_the_sweep(lab: Lab, live: Path, change: str = "") -> int:
    """The exit code of a sweep of four runs, two at once, whose snapshots are deleted while the first two run."""
    lab.write(args=["--nsteps 30 --id step20"], parameters={"seed": [1, 2, 3, 4]})

    def delete() -> None:
        lab.wait_for_steps(1)
        if change:
            write(live / "models" / "vae.py", change)
        shutil.rmtree(lab.paths.snapshots)

    thread = threading.Thread(target=delete)
    thread.start()
    code = lab.run()
    thread.join()
    return code


def test_a_snapshot_deleted_in_mid_sweep_is_written_again(
    lab: Lab, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delete_during_the_sweep(lab, live) == 0
    taken = current(lab)
    assert is_intact(lab.paths, taken.id, taken.digest)
    folder = lab.paths.snapshot(taken.id)
    assert capsys.readouterr().err.count(f"{folder} was gone, and is written again") == 1
    assert [(r.state.value, r.attempt, r.snapshot) for r in lab.records()] == [("done", 1, taken.id)] * 4


def test_no_run_starts_on_other_code_than_that_of_a_deleted_snapshot(
    lab: Lab, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delete_during_the_sweep(lab, live, "width = 20\n") == 1
    shown = capsys.readouterr().err
    assert shown.count("no more runs are started: ") == 1
    assert f"{lab.paths.snapshot(current(lab).id)} is gone, and the code here is no longer the same" in shown
    assert lab.counts() == {"done": 2, "queued": 2}  # those that were running have ended as usual
    assert lab.run("--update_lib") == 0
    assert [record.attempt for record in lab.records()] == [1] * 4
