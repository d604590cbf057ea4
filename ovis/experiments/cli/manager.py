"""``manager.py``: queue the runs of an experiment and bring them to their end."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from ovis.experiments.cli.commands import COMMANDS, MissingPackages, check_packages
from ovis.experiments.cli.engine_arguments import add_engine_options, read_engine_options
from ovis.experiments.cli.options import FRESH, REPORTS, OneLineParser, confirm, prepare_streams, whole_number
from ovis.experiments.runner.display.messages import describe_start
from ovis.experiments.runner.display.progress_display import make_display
from ovis.experiments.runner.display.text import clock, counts_text, runs_text
from ovis.experiments.runner.engines.create import create_engine
from ovis.experiments.runner.engines.engine_options import EngineOptions
from ovis.experiments.runner.engines.ensemble import EnsembleEngine
from ovis.experiments.runner.engines.interface import Engine, EngineError, EngineRequest
from ovis.experiments.runner.experiment_file import Experiment, GridError
from ovis.experiments.runner.gpus.devices import DeviceError
from ovis.experiments.runner.job import JobSpec
from ovis.experiments.runner.manager import SETTLED, Result, run_experiment
from ovis.experiments.runner.plan import Plan, PlanError, make_plan, start_plan
from ovis.experiments.runner.queue.filesystem import FileSystemError, check_features, is_network
from ovis.experiments.runner.queue.ledger import LedgerError
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.queue.retry_policy import Policy
from ovis.experiments.runner.queue.transitions import REQUEUE_LEVELS, RequeueLevel
from ovis.experiments.runner.snapshot import live_package
from ovis.experiments.runs.paths import ExperimentPaths, is_safe_name
from ovis.experiments.runs.process import host_of, new_owner
from ovis.experiments.runs.status import Record, State, count_states
from ovis.experiments.settings import TrainSettings
from ovis.experiments.studies import STUDIES, experiment_name

__all__ = ["main"]

EXPERIMENTS = Path("experiments")

#: Where a wheel puts the experiment files: read where the working directory has none.
INSTALLED_EXPERIMENTS = Path(sysconfig.get_path("data"), "share/ovis/experiments")

INTERRUPTED = 130

#: Runs a command on the code in the folder that is its first argument, and in the user's working directory.
REPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # the manager says that it was interrupted
sys.path.insert(0, sys.argv.pop(1))
from ovis.experiments.cli.commands import main
raise SystemExit(main())
"""

#: Largest number of concurrent runs on a device; more is a mistake.
MAX_PROCESSES = 10_000

#: Failed runs that are named at the end: each was shown when it failed.
NAMED = 10

#: Times for a network file system, as a cluster's root is on, where a file's new mtime may take a minute to be seen.
REMOTE_POLICY = Policy(heartbeat=15.0, ttl=300.0)


def main(argv: Sequence[str] | None = None, training: Sequence[str] | None = None, policy: Policy | None = None) -> int:
    """Run an experiment from the command line.

    Args:
        argv: the command line; None: this process's.
        training: the command of a run, to which its options are added; None: that of the experiment's study.
        policy: the queue's times and limits; None: the usual ones for the file system.

    Returns:
        0: every run is done; 1: some are not; 2: the request is invalid, and nothing was changed; 130: interrupted.
    """
    prepare_streams()
    parser = _parser()
    options = parser.read(argv)
    if options.resume and options.update_exp:
        parser.error("--resume goes on with the sweep as queued, --update_exp takes the file as it is now: give one")
    if options.fresh and options.requeue_level is None:
        parser.error("--fresh goes with --requeue_level only")
    engine_options = read_engine_options(parser, options)
    try:
        with ExitStack() as exit_stack:
            return _run(options, engine_options, training, policy, exit_stack)
    except (GridError, PlanError, DeviceError, EngineError, FileSystemError, LedgerError, MissingPackages) as error:
        print(f"manager.py: {error}", file=sys.stderr)
    except BrokenPipeError:  # nobody reads the plan, nothing was begun
        pass
    except OSError as error:
        print(f"manager.py: {error.filename or options.root}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("manager.py: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        _mute_broken_streams()
    return 2


def _mute_broken_streams() -> None:
    """Keep Python's last flush from changing the exit code where a reader has left, as ``tee`` does at Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="manager.py",
        allow_abbrev=False,
        description="Queue the runs of an experiment and bring them to their end. "
        "Running it again is safe: runs that are done are not run again.",
        epilog="Ctrl-C once: the running runs write their checkpoints and are put back; twice: they are killed.",
    )
    add = parser.add_argument
    add("--exp", required=True, metavar="NAME", help="experiments/NAME.json, or the path of such a file")
    add("--root", default="runs/", metavar="DIR", help="folder of all experiments (default: runs/)")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: as the experiment says, or data/)")
    add("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: as the experiment says, or auto)")
    add("--processes", type=partial(whole_number, most=MAX_PROCESSES), metavar="N",
        help="runs at once on each device (default: 1 on a CUDA device; on the CPU 1 for each core, with one thread "
        "each)")  # fmt: skip
    add("--ensemble", action="store_true",
        help="train runs that differ only in the seed in one process; each leaves what it would alone")  # fmt: skip
    add("--max_jobs", type=whole_number, metavar="N", help="start at most N runs, then stop")
    add("--stall_limit", type=whole_number, metavar="SECONDS",
        help="put back a run without progress for SECONDS and for 10 times its longest pause so far (default: runs "
        "without progress for 600 s are reported only)")  # fmt: skip
    add("--requeue_level", type=int, choices=[level.value for level in RequeueLevel], metavar="LEVEL",
        help=f"first put runs back, by level: {REQUEUE_LEVELS}")  # fmt: skip
    add("--fresh", action="store_true", help=f"with --requeue_level: {FRESH}")
    add("--dry_run", action="store_true", help="show the plan and write nothing")
    add("--report", action="store_true", help="draw the report when every run is done")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true",
        help="go on with the runs as they were queued, and put back those that failed as they were lost")  # fmt: skip
    again.add_argument("--rf", action="store_true", help="restart from scratch: delete the experiment's previous runs")
    add("--update_exp", action="store_true", help="take the experiment file as it is now and queue its new runs")
    add("--update_lib", action="store_true", help="run on the code as it is now, not as it was when they were queued")
    add("--yes", action="store_true", help="do not ask before --rf deletes; needed where no terminal is")
    add_engine_options(parser)
    return parser


def _run(
    options: argparse.Namespace,
    engine_options: EngineOptions,
    training: Sequence[str] | None,
    policy: Policy | None,
    exit_stack: ExitStack,
) -> int:
    path, name = _locate(options.exp)
    queue = _open_queue(name, options, policy)
    plan = make_plan(path, queue, fresh=options.rf, resume=options.resume, update_exp=options.update_exp,
        update_lib=options.update_lib)  # fmt: skip
    report = STUDIES[plan.experiment.script].report
    if options.report:
        check_packages("--report", COMMANDS[report].extra)  # now, and not after hours of training
    known = {record.key: record for record in queue.read()}
    engine = _create_engine(plan.experiment, queue, options, engine_options, exit_stack)
    _print_plan(plan, queue, engine, known)
    deleted = _deleted_runs(plan.experiment, queue, known) if options.rf else {}
    if deleted and not _confirm_deletion(queue, deleted, options):
        return 0 if options.dry_run else 1
    if options.dry_run:
        return 0
    Path(options.root).mkdir(parents=True, exist_ok=True)
    check_features(Path(options.root))
    engine.check(Path(options.root))
    if queue.paths.jobs_log.is_symlink():
        raise PlanError(f"{queue.paths.jobs_log}: is a symbolic link, which no job would follow: remove it")
    if options.report:
        _check_report_folder(name)
    _fill_queue(plan, queue, deleted, options)
    template = _job_template(plan.experiment, queue, options, training)
    begin = time.monotonic()
    display = make_display(sys.stderr)
    result = run_experiment(
        plan.experiment.runs, queue, engine, display, template, options.max_jobs, options.stall_limit
    )
    with suppress(OSError):  # the exit code is right even if nobody reads the output
        _print_result(result, queue, name, time.monotonic() - begin)
    if result.interrupted:
        return INTERRUPTED
    if not result.complete:
        if options.report:
            command_line = _command(COMMANDS[report].script, name, queue)
            print(f"no report, as not every run is done; what there is, is drawn by: {command_line}")
        return 1
    return _make_report(report, name, options.root, queue) if options.report else 0


def _check_report_folder(name: str) -> None:
    """Find out whether the report can be written, before the runs take hours.

    Raises:
        PlanError: it can't.
    """
    folder = next(path for path in (Path(REPORTS, name), Path(REPORTS), Path()) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PlanError(f"--report: can't write to the folder {folder}: {error.strerror or error}") from None


def _make_report(command: str, name: str, root: str, queue: Queue) -> int:
    """Make the report of an experiment by the code of its runs, as the code here may be edited; its exit code."""
    snapshot = queue.snapshot()
    code = live_package().parent if snapshot is None else queue.paths.snapshot(snapshot.id)
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-c", REPORT, str(code), command, "--exp", name, "--root", root]).returncode


def _open_queue(name: str, options: argparse.Namespace, policy: Policy | None) -> Queue:
    """The experiment's queue, with the times that suit its file system."""
    paths = ExperimentPaths(Path(options.root) / name)
    remote = is_network(paths.folder)
    queue = Queue(paths, policy or (REMOTE_POLICY if remote or options.engine != "local" else Policy()))
    if remote:
        _refuse_other_hosts(queue)
    return queue


def _create_engine(
    experiment: Experiment,
    queue: Queue,
    options: argparse.Namespace,
    engine_options: EngineOptions,
    exit_stack: ExitStack,
) -> Engine:
    """The engine that was asked for; ``exit_stack`` closes it."""
    device = options.device or experiment.device or "auto"
    engine = create_engine(engine_options, EngineRequest(device, options.processes))
    exit_stack.callback(engine.close)
    if not options.ensemble:
        return engine
    if not STUDIES[experiment.script].ensembles:
        able = ", ".join(name for name, study in STUDIES.items() if study.ensembles)
        name = queue.paths.folder.name
        raise EngineError(f"--ensemble: {name} is of the study {experiment.script!r}; valid for: {able}")
    return EnsembleEngine(engine, queue, experiment.runs)


def _fill_queue(plan: Plan, queue: Queue, deleted: dict[str, str], options: argparse.Namespace) -> None:
    """Delete what ``--rf`` deletes, queue the plan's runs, and put back those that the options name."""
    plan.read_code()  # first, as it can fail
    if deleted:
        queue.clear(deleted)
        print(f"deleted {runs_text(len(deleted))}")
    start_plan(plan, queue)
    keys = {run.key for run in plan.experiment.runs}
    if lost := queue.mark_lost_results(keys):
        print(f"the results of {runs_text(len(lost))} are gone, e.g. {lost[0].name}: marked as failed")
    level = RequeueLevel.LOST if options.resume and options.requeue_level is None else options.requeue_level
    if level is not None:
        before = queue.read()
        changed = queue.requeue(RequeueLevel(level), keys, fresh=options.fresh)
        print(f"put back {runs_text(len(changed))}")
        if note := describe_start(before, changed, options.fresh):
            print(note)


def _job_template(
    experiment: Experiment, queue: Queue, options: argparse.Namespace, training: Sequence[str] | None
) -> JobSpec:
    """What all jobs share.

    Its paths are absolute: trainings start in the folder of their code, a cluster's jobs wherever that starts them.
    """
    command = tuple(training or (sys.executable, "-m", STUDIES[experiment.script].module))
    folder = Path(os.path.abspath(queue.paths.folder))
    data_root = os.path.abspath(options.data_root or experiment.data_root or TrainSettings().data_root)
    policy = queue.policy
    return JobSpec(folder, "", 0, data_root, heartbeat=policy.heartbeat, ttl=policy.ttl, command=command)


def _locate(exp: str) -> tuple[Path, str]:
    """The experiment's file and its name."""
    exp = experiment_name(exp)
    folder = EXPERIMENTS if EXPERIMENTS.is_dir() or not INSTALLED_EXPERIMENTS.is_dir() else INSTALLED_EXPERIMENTS
    path = Path(exp) if exp.endswith(".json") else folder / f"{exp}.json"
    if not is_safe_name(path.stem) or (not exp.endswith(".json") and path.stem != exp):
        raise GridError(
            f"--exp: {exp!r} is neither a name in {EXPERIMENTS}/ nor the path of a .json file; "
            f"names are of letters, digits and . _ + = - only"
        )
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.json")))
        raise GridError(f"there is no experiment file {path}; in {path.parent} there are: {there or 'none'}")
    return path, path.stem


def _refuse_other_hosts(queue: Queue) -> None:
    """On a network file system a lock does not keep two hosts apart, whatever it says."""
    this_host = host_of(new_owner())
    for record in queue.read():
        if record.state is State.RUNNING and host_of(record.owner) != this_host:
            raise LedgerError(
                f"{queue.paths.folder} is on a network file system, where locks do not keep hosts apart, and a manager "
                f"on {host_of(record.owner)} is running {record.name}: stop it there, or use another --root; if that "
                f"host is gone for good, put its runs back by dbutils.py --cancel and --requeue"
            )


def _print_plan(plan: Plan, queue: Queue, engine: Engine, known: dict[str, Record]) -> None:
    """Print what will be run, where, for about how long, and what is unusual about it."""
    experiment = plan.experiment
    keys = {run.key for run in experiment.runs}
    states = count_states(record.state for key, record in known.items() if key in keys)
    new, old = len(keys - known.keys()), len(keys & known.keys())
    known_states = f" ({counts_text(states)})" if old else ""
    parts = f"{new} new, {old} known{known_states}, {len(experiment.runs) - len(keys)} duplicate"
    print(f"{queue.paths.folder}: {runs_text(len(keys))}: {parts}")
    others = len(known.keys() - keys)
    if others:
        print(f"left alone: {runs_text(others)} of its queue, not in the experiment file (any more)")
    estimate = _estimate(experiment, known, engine.slots)
    print(f"on {engine.location}: {runs_text(engine.slots)} at once{estimate}", flush=True)
    if busy := engine.waiting():
        print(f"not free now: {busy}", flush=True)
    for note in plan.notes:
        print(note, flush=True)


def _estimate(experiment: Experiment, known: dict[str, Record], slots: int) -> str:
    """How long the plan will take, judging by the runs that are done; empty where none is."""
    queued = [known[run.key] for run in experiment.runs if run.key in known]
    done = [record for record in queued if record.state is State.DONE and record.started]
    waiting = len(experiment.runs) - sum(record.state in SETTLED for record in queued)
    if not done or not waiting:
        return ""
    seconds = statistics.median(record.ended - record.started for record in done)
    return f", about {clock(seconds * math.ceil(waiting / slots))} in all, judging by {runs_text(len(done))}"


def _deleted_runs(experiment: Experiment, queue: Queue, known: dict[str, Record]) -> dict[str, str]:
    """The runs that ``--rf`` deletes: names and states."""
    names = [run.identity.name for run in experiment.runs if run.key not in known]
    strays = {name: "not in the queue" for name in names if queue.paths.run(name).folder.exists()}
    return {**{record.name: record.state.value for record in known.values()}, **strays}


def _confirm_deletion(queue: Queue, deleted: dict[str, str], options: argparse.Namespace) -> bool:
    """List what ``--rf`` deletes, and ask."""
    if not (options.yes or options.dry_run or sys.stdin.isatty()):
        raise PlanError(
            f"--rf deletes {runs_text(len(deleted))} of {queue.paths.folder}: "
            f"say --yes where there is no terminal to ask at, --dry_run lists them"
        )
    print(f"--rf deletes {runs_text(len(deleted))} of {queue.paths.folder}:")
    for name, state in deleted.items():
        print(f"  {name}  {state}")
    if options.dry_run:
        return False
    if options.yes:
        return True
    return confirm("delete them? [y/N] ")


def _print_result(result: Result, queue: Queue, name: str, seconds: float) -> None:
    counts = filter(None, (counts_text(result.counts), f"{result.gone} gone" if result.gone else ""))
    print(f"{queue.paths.folder}: {', '.join(counts)}, after {clock(seconds)}")
    if result.gone:
        print(
            f"no longer in the queue, as somebody deleted it: {runs_text(result.gone)}; start again to queue them anew"
        )
    for record in result.failed[:NAMED]:
        print(f"  failed: {record.name}: {record.error}")
        log = queue.paths.run(record.name).log(record.attempt)
        if log.exists():
            print(f"          {log}")
    if len(result.failed) > NAMED:
        print(f"  and {len(result.failed) - NAMED} more failed: {_command('dbutils.py', name, queue)}")
    if result.failed:
        print(f"put them back with: {_command('dbutils.py', name, queue)} --requeue_level 2")
    if result.interrupted:
        print("stopped; the next start, without --rf, goes on from here")


def _command(script: str, name: str, queue: Queue) -> str:
    """The beginning of a command line on this experiment, to be copied."""
    root = queue.paths.folder.parent
    return shlex.join(["python", script, "--exp", name, *(["--root", str(root)] if root != Path("runs") else [])])
