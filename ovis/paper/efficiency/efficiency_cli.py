"""Measure the memory and time of training steps against K, and draw them. A call resumes an interrupted one."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ovis.experiments.cli.options import OneLineParser, whole_number
from ovis.experiments.cli.report_command import FAILED, REFUSED, ReportError, run_report, split_words
from ovis.experiments.runner.queue.lock_holder import clear_holder, read_holder, write_holder

if TYPE_CHECKING:
    import pandas as pd

    from ovis.paper.efficiency.cost_measurement import Point
    from ovis.paper.efficiency.isolated_process import CallResult

__all__ = ["main"]

INTERRUPTED = 130

#: The columns that identify a point.
KEYS = ["estimator", "iw", "seed", "steps"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the missing points, then report; exit codes as of :func:`run_report`, and 130 after Ctrl-C."""
    try:
        return run_report(measure, build_parser(), argv)
    except KeyboardInterrupt:
        print("\nstopped: what was measured is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> OneLineParser:
    """The command line of measure_efficiency.py."""
    parser = OneLineParser(prog="measure_efficiency.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--estimators", type=split_words, default=[], metavar="A,B",
        help="ids; default: vimco, ovis-gamma1, reinforce, tvo-part2-config1, ovis-S10-exclusive, iwae, stl, "
        "dreg")  # fmt: skip
    add("--iw", type=_counts, default=[], metavar="K,K", help="numbers of particles; default: ten from 10 to 5000")
    add("--steps", type=whole_number, metavar="N", help="measured steps of each point; default: fewer where K is large")
    add("--runs", type=whole_number, default=3, metavar="N", help="repetitions (3; the paper has 5)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (auto)")
    add("--output", default="reports/", metavar="FOLDER", help="folder of all reports (reports/)")
    add("--seed", type=whole_number, default=1, metavar="N", help="of the first repetition (1)")
    return parser


def _counts(text: str) -> list[int]:
    return sorted({whole_number(word) for word in split_words(text)})


def measure(options: argparse.Namespace) -> None:
    """Measure the missing points, then draw and print all measured ones.

    Raises:
        ReportError: no such estimator or device, or a point failed.
    """
    from ovis.paper.efficiency.cost_tables import read_points

    wanted, device = _plan(options)
    folder = Path(options.output) / "efficiency"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "points.jsonl"
    with _alone():
        failures = _measure(wanted, options.device, device, path)
    _report(read_points(path), device, wanted, folder, options.command)
    if failures:
        raise ReportError(f"{len(failures)} points failed, the first: {failures[0]}", FAILED)


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other measurement runs on this machine, on any device: two at once would measure each other.

    Other users' measurements are not noticed, as the lock is in the folder of this user's temporary files.
    """
    folder = Path(tempfile.gettempdir()) / f"ovis-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock, holder = FileLock(folder / "measure_efficiency.lock"), folder / "measure_efficiency.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another measurement on this machine: {read_holder(holder)}", flush=True)
        lock.acquire()
    try:
        write_holder(holder)
        yield
    finally:
        clear_holder(holder)
        lock.release()


def _plan(options: argparse.Namespace) -> tuple[list[Point], str]:
    """All points in the order of measurement, by repetition, and the description of the device."""
    # Imported here: --help must not wait for torch.
    from ovis.estimators.ids import parse_estimator
    from ovis.experiments.settings import SettingsError
    from ovis.experiments.training.build import pick_device
    from ovis.paper.efficiency.cost_measurement import (
        ESTIMATORS,
        IW,
        Point,
        default_steps,
        describe_device,
        point_settings,
    )

    iw = options.iw or list(IW)
    try:
        for name in options.estimators or ESTIMATORS:
            for k in iw:
                point_settings(name, k)
        on = pick_device(options.device)
    except SettingsError as error:
        raise ReportError(str(error), REFUSED) from None
    names = dict.fromkeys(parse_estimator(name).canonical for name in options.estimators or ESTIMATORS)
    seeds = range(options.seed, options.seed + options.runs)
    points = [
        Point(name, k, seed, options.steps or default_steps(on.type, k)) for seed in seeds for name in names for k in iw
    ]
    return points, describe_device(on)


def _measure(wanted: Sequence[Point], on: str, device: str, path: Path) -> list[str]:
    """Measure the points that are not in the file; returns the errors."""
    from ovis.paper.efficiency.cost_measurement import measure_apart, measure_missing, point_seconds
    from ovis.paper.efficiency.cost_tables import add_point, known_limits, read_points

    known = read_points(path)
    limits = known_limits(known, device)
    missing = _missing(wanted, known, device)
    kind = device.partition(":")[0]
    seconds = {point: point_seconds(kind, point) for point in missing if point.iw < limits.get(point.estimator, 10**9)}
    print(f"on {device}: {len(wanted) - len(missing)} of {len(wanted)} points are measured")
    if not seconds:
        return []
    _announce(len(seconds), sum(seconds.values()))
    failures = []
    with _bar(sum(seconds.values())) as bar:
        for point, answer in measure_missing(missing, limits, lambda point: measure_apart(point, on)):
            bar.set_postfix_str(f"{point.estimator} K={point.iw} seed {point.seed}", refresh=False)
            bar.update(seconds.get(point, 0.0))
            if answer is not None:
                add_point(path, _record(point, answer, device))
                if answer.state != "ok":
                    bar.write(f"{point.estimator} at K = {point.iw}: {answer.state}: {answer.message}", file=sys.stderr)
                if answer.state == "failed":
                    failures.append(f"{point.estimator} at K = {point.iw}: {answer.message}")
    return failures


def _missing(wanted: Iterable[Point], known: pd.DataFrame, device: str) -> list[Point]:
    done = known[(known["device"] == device) & (known["state"] == "ok")]
    there = set(done[KEYS].itertuples(index=False, name=None))
    return [point for point in wanted if tuple(getattr(point, key) for key in KEYS) not in there]


def _announce(count: int, seconds: float) -> None:
    from ovis.paper.efficiency.cost_measurement import has_data, point_settings

    print(f"measuring {count} more, each in a process of its own: about {max(seconds / 60, 0.1):.1f} min, if free")
    if not has_data(point_settings("reinforce", 2)):
        print("binarized MNIST is not in data/: random images of the same shape in its place, at the same cost")


def _bar(seconds: float) -> Any:
    """A progress bar in expected seconds, because the durations of points differ by a factor of a hundred."""
    from tqdm import tqdm

    shape = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    return tqdm(total=seconds, desc="measure", bar_format=shape, disable=None)


def _record(point: Point, answer: CallResult, device: str) -> dict[str, Any]:
    """The record of a point in the file."""
    import torch

    from ovis import __version__
    from ovis.paper.efficiency.cost_measurement import EPOCH_STEPS, point_settings

    cost = answer.value
    return {
        "device": device,
        "estimator": point.estimator,
        "model": point_settings(point.estimator, point.iw).model,
        "iw": point.iw,
        "seed": point.seed,
        "steps": point.steps,
        "state": answer.state,
        "message": answer.message,
        "memory_mb": cost.memory / 1e6 if cost else None,
        "epoch_s": cost.seconds * EPOCH_STEPS if cost else None,
        "data": cost.data if cost else "",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": __version__,
        "hostname": platform.node(),
    }


def _report(points: pd.DataFrame, device: str, wanted: Sequence[Point], folder: Path, command: str) -> None:
    """Write the tables, the figures and the page for the requested estimators, and print those of this device."""
    from ovis.experiments.reporting.page.render import write_page
    from ovis.experiments.reporting.tables import csv_text
    from ovis.experiments.reporting.verdict import claims_table, claims_text
    from ovis.experiments.runs.atomic import write_text
    from ovis.paper.efficiency.cost_measurement import point_settings
    from ovis.paper.efficiency.cost_report import draw_part, efficiency_page
    from ovis.paper.efficiency.cost_tables import cost_table, last_devices

    points = points[points["estimator"].isin([point.estimator for point in wanted])]
    if cost_table(points, device).empty:
        raise ReportError(f"no point was measured on {device}: nothing to draw", FAILED)
    parts = [draw_part(points, name, folder) for name in last_devices(points, device)]
    verdicts = [verdict for part in parts for verdict in part.verdicts]
    write_text(folder / "claims.csv", csv_text(claims_table(verdicts)), durable=False)
    print(f"wrote {parts[0].name}.csv, {parts[0].name}.txt, claims.csv to {folder}\n")
    print(parts[0].text)
    print(claims_text(parts[0].verdicts))
    settings = [dataclasses.asdict(point_settings(point.estimator, point.iw)) for point in wanted]
    page = efficiency_page(points, parts, settings, command)
    print(folder / f"{parts[0].drawn.name}.png", write_page(folder, page), sep="\n")
