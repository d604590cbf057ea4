"""Damaged experiment files, ledgers and run folders: a command does its work or says in one line why not.

The files are damaged from a seed, so each case can be repeated. The first block of a test runs every day, the others
with ``-m slow``; so do all reports, as these take seconds.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from laboratory import Lab
from mutations import damage_bytes, damage_json
from slow_cases import slow_except

from ovis.experiments.cli.dbutils import main as dbutils
from ovis.experiments.cli.manager import main as manager
from ovis.experiments.cli.report import main as report
from ovis.experiments.cli.train import main as train
from ovis.experiments.reporting.figures import save_figure
from ovis.experiments.runner.plan import make_plan, start_plan
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Ended, Queue
from ovis.experiments.runs.fencing import publish_outcome, take_fence
from ovis.experiments.runs.paths import ExperimentPaths
from ovis.experiments.runs.status import AttemptResult, Outcome

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.json"))

BLOCKS = slow_except([0], range(8))

#: A training of a second.
TINY = ["--iw=4", "--epochs=2", "--eval_freq=1", "--mini", "--dataset=digits", "--model=sbm", "--hdim=4", "--N=3"]
TINY += ["--depth=1", "--nlayers=1", "--iw_valid=4", "--iw_test=4", "--max_eval=20", "--grad_samples=2", "--grad_bs=2"]

#: How each of five claimed runs has ended; None: it has not.
ENDINGS = (AttemptResult.SUCCESS, AttemptResult.EXCEPTION, AttemptResult.LOST, None, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an experiment of four trained runs, which no queue knows."""
    root = tmp_path_factory.mktemp("trained")
    for estimator in ("vimco", "ovis-gamma1"):
        for seed in (1, 2):
            words = [f"--root={root}", "--exp=lab", "--id=a", f"--estimator={estimator}", f"--seed={seed}"]
            assert train([*words, *TINY]) == 0
    return root


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """An experiment of six runs, in all states but cancelled."""
    lab = Lab(tmp_path_factory.mktemp("queued"))
    path = lab.write(args=["--estimator vimco --iw 2 --id a", "--estimator rws --id b"], seeds=3)
    lab.paths.folder.mkdir(parents=True)
    start_plan(make_plan(path, lab.queue), lab.queue)
    owner = "elsewhere@0:1:1:x"
    for record, ending in zip(lab.queue.tick(owner, len(ENDINGS)).claimed, ENDINGS, strict=True):
        run = lab.paths.run(record.name)
        run.folder.mkdir()
        take_fence(run, 1)
        run.lock.touch()
        run.checkpoint.write_bytes(b"weights")
        progress = {"step": 5, "nsteps": 10, "loss": 1.5, "t": record.started + 5, "begin": 0}
        run.progress.write_text(json.dumps(progress))
        if ending is not None:
            outcome = Outcome(ending, 1, message="" if ending is AttemptResult.SUCCESS else "a message", t=1e9)
            publish_outcome(run, outcome)
            lab.queue.tick(owner, 0, [Ended(record.key, 1, outcome)])
    assert lab.counts() == {"queued": 2, "running": 2, "done": 1, "failed": 1}
    return lab


def cases(kind: str, block: int, count: int) -> Iterator[tuple[str, random.Random]]:
    for number in range(count):
        case = f"{kind} {block}.{number}"
        yield case, random.Random(case)


def check(
    case: str, command: Callable[[Sequence[str]], int], argv: list[str], capsys: pytest.CaptureFixture[str]
) -> int:
    """Run a command; its exit code. Where that is not 0, it has said why in one line."""
    try:
        code = command(argv)
    except SystemExit as left:
        pytest.fail(f"{case}: {argv} left with {left.code}")
    except Exception as error:
        raise AssertionError(f"{case}: {argv}") from error
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err, (case, argv)
    assert err.count("\n") == (code != 0), (case, argv, err)
    return code


def damage(content: bytes, chance: random.Random) -> bytes:
    """Half of the time as text, else as JSON."""
    return damage_bytes(content, chance) if chance.random() < 0.3 else damage_json(json.loads(content), chance)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("block", BLOCKS)
def test_experiment_files(tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str]) -> None:
    path, codes = tmp_path / "lab.json", set()
    for case, chance in cases("experiment", block, 40):
        path.write_bytes(damaged := damage(chance.choice(EXPERIMENTS).read_bytes(), chance))
        codes.add(check(case, manager, ["--exp", str(path), "--root", str(tmp_path / "runs"), "--dry_run"], capsys))
        assert contents(tmp_path) == {"lab.json": damaged}, case
    assert codes == {0, 2}


def keys_of(queue: Queue) -> set[str] | None:
    """The keys of its runs; None: it can't be read."""
    try:
        return {record.key for record in queue.read()}
    except LedgerError:
        return None


@pytest.mark.parametrize("block", BLOCKS)
def test_ledgers(queued: Lab, tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, keys = queued.paths.ledger.read_bytes(), sorted(record.key for record in queued.records())
    codes = set()
    for case, chance in cases("ledger", block, 16 if block else 5):
        root = tmp_path / case
        shutil.copytree(queued.folder / "runs", root)
        paths = ExperimentPaths(root / "lab")
        paths.ledger.write_bytes(damage(ledger, chance))
        before, known = contents(root), keys_of(Queue(paths))
        experiment = ["--exp", str(queued.folder / "lab.json"), "--root", str(root), "--device=cpu", "--dry_run"]
        check(case, manager, experiment, capsys)
        for options in ([], ["--json"], ["--find", "vimco"]):
            codes.add(check(case, dbutils, ["--exp=lab", "--root", str(root), *options], capsys))
        assert contents(root) == before, case
        key = chance.choice(keys)
        changes = (["--requeue_level", "10000"], ["--requeue", key], ["--cancel", key], ["--clean", "--yes"])
        check(case, dbutils, ["--exp=lab", "--root", str(root), *chance.choice(changes)], capsys)
        after = contents(root)
        if known is None:
            assert after["lab/.db.json"] == before["lab/.db.json"], case
        assert keys_of(Queue(paths)) == known, case
        kept = [name for name in before if name.endswith((".pt", ".attempt", "progress.json"))]
        assert all(after[name] == before[name] for name in kept), case
    assert codes == {0, 2}


@pytest.mark.parametrize("block", BLOCKS)
def test_run_folders_of_a_queue(queued: Lab, tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str]) -> None:
    for case, chance in cases("folder", block, 12 if block else 4):
        root = tmp_path / case
        shutil.copytree(queued.folder / "runs", root)
        for path in sorted((root / "lab").glob("*/*.json")) + sorted((root / "lab").glob("*/.attempt")):
            if chance.random() < 0.6:
                path.write_bytes(damage(path.read_bytes(), chance))
        before, known = contents(root), keys_of(Queue(ExperimentPaths(root / "lab")))
        for options in (["--check"], ["--json"]):
            assert check(case, dbutils, ["--exp=lab", "--root", str(root), *options], capsys) == 0
        assert contents(root) == before, case
        change = chance.choice(
            (["--requeue_level", "10000", "--fresh"], ["--requeue_level", "2"], ["--clean=all", "--yes"])
        )
        assert check(case, dbutils, ["--exp=lab", "--root", str(root), *change], capsys) == 0
        assert keys_of(Queue(ExperimentPaths(root / "lab"))) == known, case
        after = contents(root)
        assert all(after[name] == before[name] for name in before if name.endswith((".pt", "progress.json"))), case


def damage_run(folder: Path, chance: random.Random) -> None:
    """Damage one file of a trained run."""
    path = folder / chance.choice(["config.json"] * 5 + ["metrics.jsonl"] * 3 + ["outcome.json", "progress.json"])
    content = path.read_bytes()
    if chance.random() < 0.25:
        content = damage_bytes(content, chance)
    elif path.suffix == ".jsonl":
        lines = content.splitlines()
        place = chance.randrange(len(lines))
        lines[place] = damage_json(json.loads(lines[place]), chance)
        content = b"\n".join(lines) + b"\n"
    elif path.name == "config.json" and chance.random() < 0.8:
        config = json.loads(content)
        content = (
            b'{"settings": ' + damage_json(config.pop("settings"), chance) + b", " + json.dumps(config)[1:].encode()
        )
    else:
        content = damage_json(json.loads(content), chance)
    path.write_bytes(content)


#: Options of reports that group the runs in various ways.
REPORTS = ([], ["--latex"], ["--keys=id,iw"], ["--parse_estimator_args"], ["--filter=iw=4"], ["--keys=lr,estimator"])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_run_folders_in_reports(
    trained: Path, tmp_path: Path, block: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save_figure, "DPI", 30)
    good = sorted((trained / "lab").iterdir())
    for case, chance in cases("report", block, 2):
        root = tmp_path / case
        shutil.copytree(trained, root)
        for number in range(12):
            folder = root / "lab" / f"{chance.choice(good).name[:-3]}{number:03x}"
            shutil.copytree(good[number % len(good)], folder)
            damage_run(folder, chance)
        before = contents(root)
        output = tmp_path / f"{case} reports"
        words = ["--exp=lab", "--root", str(root), "--output", str(output), *chance.choice(REPORTS)]
        assert check(case, report, words, capsys) == 0
        assert contents(root) == before, case
        assert (output / next(output.iterdir()).name / "pivot.csv").read_text().count("\n") > 2, case
