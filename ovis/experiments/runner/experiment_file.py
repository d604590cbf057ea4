"""Read an experiment file, ``experiments/NAME.json``, and expand it into runs. The whole file is validated first.

An experiment file is a JSON object:

    description   the purpose of the experiment
    script        the study, a key of ovis.experiments.studies.STUDIES; by default "train"
    args          one string of options per entry, e.g. "--estimator vimco --id iwbound"
    global        one string: options of all runs
    parameters    {"iw": [20, 10], "bs": [24, 50]}: the runs are the product of args and all these lists
    zip           {"iw": [10, 50], "lr": [1e-3, 5e-4]}: lists that vary together; or a list of such objects
    seeds         3, short for the seeds 1, 2, 3; or a list of seeds

Options of an entry of ``args`` override those of ``global``. An option that two other keys set, or that one string sets
twice, is an error.
"""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ovis.experiments.runs.identity import Identity, identify, option_words
from ovis.experiments.runs.status import Record
from ovis.experiments.settings import RunSettings, SettingsError, build_parser, parse_arguments
from ovis.experiments.studies import STUDIES, Study
from ovis.suggestions import did_you_mean

__all__ = ["Experiment", "ExperimentRun", "GridError", "load_experiment", "parse_experiment"]

KEYS = ("description", "script", "args", "global", "parameters", "zip", "seeds")

#: Upper limit of runs in one file; a larger product is almost certainly a mistake.
MAX_RUNS = 30_000


class GridError(ValueError):
    """An invalid experiment file. The message is one line that names the file and the culprit."""


@dataclass(frozen=True)
class ExperimentRun:
    """One run of an experiment.

    Attributes:
        settings: its options.
        identity: its key, the name of its folder, and its settings that differ from the defaults.
        source: the entries of the file that define it, for error messages.
    """

    settings: RunSettings
    identity: Identity
    source: str

    @property
    def key(self) -> str:
        return self.identity.key

    def record(self) -> Record:
        """The run's record in the queue before its first attempt."""
        return Record(self.identity.key, self.identity.name, self.identity.settings)


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment file.

    Attributes:
        description: the purpose of the experiment.
        runs: its runs, without duplicates.
        data_root: folder of the data sets; None: the file does not set it.
        device: device of the runs; None: the file does not set it.
        script: the study, a key of :data:`ovis.experiments.studies.STUDIES`.
        text: the file's text.
    """

    description: str
    runs: tuple[ExperimentRun, ...]
    data_root: str | None = None
    device: str | None = None
    script: str = "train"
    text: str = ""


def load_experiment(path: Path) -> Experiment:
    """Read and expand an experiment file.

    Raises:
        GridError: the file can't be read, or anything in it is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"can't read the experiment file {path}: {error}") from None
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise GridError(f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise GridError(f"{path}: can't be read as JSON: nested too deeply, or a number of too many digits") from None
    try:
        return replace(parse_experiment(data), text=text)
    except GridError as error:
        raise GridError(f"{path}: {error}") from None


def parse_experiment(data: Any) -> Experiment:
    """Expand the content of an experiment file.

    Args:
        data: the JSON object.

    Raises:
        GridError: an unknown key or option, a value of the wrong type, an empty list, or two identical runs.
    """
    if not isinstance(data, dict):
        raise GridError(f"expected a JSON object with the keys {', '.join(KEYS)}, got {_kind(data)}")
    for key in data:
        if key not in KEYS:
            raise GridError(f"unknown key {key!r}{did_you_mean(key, KEYS)}")
    script = _text(data, "script") or "train"
    if script not in STUDIES:
        raise GridError(f"script: unknown study {script!r}{did_you_mean(script, STUDIES)}")
    study = STUDIES[script]
    runs = tuple(_expand(data, _Reader(study)))
    _refuse_duplicates(runs)
    shared = {name: {getattr(run.settings, name) for run in runs} for name in ("data_root", "device")}
    for name, values in shared.items():
        if len(values) > 1:
            raise GridError(f"--{name}: all runs of an experiment share one, found {', '.join(sorted(values))}")
    defaults = study.settings()
    changed = {name: value for name, (value,) in shared.items() if value != getattr(defaults, name)}
    return Experiment(_text(data, "description"), runs, changed.get("data_root"), changed.get("device"), script)


def _expand(data: Mapping[str, Any], reader: _Reader) -> Iterator[ExperimentRun]:
    count = _count_runs(data)
    if count > MAX_RUNS:
        raise GridError(f"{count} runs: at most {MAX_RUNS} fit one experiment, split it")
    shared = _split(_text(data, "global"), "global", reader)
    _parse(shared, "global", reader)
    entries = _entries(data.get("args", [""]), reader)
    axes = _axes(data, reader)
    for source, entry in entries.items():
        _parse(entry, source, reader)
        base = _parse([*shared, *entry], source, reader)
        _refuse_overlap(axes, {"global": reader.options(shared), source: reader.options(entry)})
        for choices in itertools.product(*(axis.choices for axis in axes)):
            chosen = {name: value for choice in choices for name, value in choice.items()}
            described = ", ".join([source, *(f"{name}={value}" for name, value in chosen.items())])
            try:
                settings = replace(base, **chosen)
                settings.check_combination()
                yield ExperimentRun(settings, identify(settings), described)
            except ValueError as error:
                raise GridError(f"{described}: {error}") from None


def _count_runs(data: Mapping[str, Any]) -> int:
    """The number of runs by the lengths of the lists; what is invalid counts as one, and is rejected later.

    Counted first, because converting the values takes up to a millisecond each.
    """
    seeds, zips = data.get("seeds"), data.get("zip")
    count = seeds if isinstance(seeds, int) and 1 <= seeds <= MAX_RUNS else _length(seeds)
    factors = [count, _length(data.get("args")), *_lengths(data.get("parameters"))]
    factors += [max(_lengths(lists), default=1) for lists in (zips if isinstance(zips, list) else [zips])]
    return math.prod(factors)


def _lengths(lists: Any) -> list[int]:
    return [_length(values) for values in lists.values()] if isinstance(lists, dict) else []


def _length(values: Any) -> int:
    return len(values) if isinstance(values, list) and values else 1


class _Reader:
    """Reads the options of one study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        # built once, as this takes longer than parsing
        self.parser = build_parser(kind=study.settings, add_help=False)
        self.names = tuple(item.name for item in fields(study.settings))
        self.booleans = frozenset(item.name for item in fields(study.settings) if isinstance(item.default, bool))

    def options(self, words: Sequence[str]) -> list[str]:
        """The names of the options among these words; ``--no-mini`` is ``mini``."""
        heads = [word[2:].split("=")[0] for word in words if word.startswith("--")]
        names = [head[3:] if head.startswith("no-") and head[3:] in self.booleans else head for head in heads]
        return [name for name in names if name in self.names]


@dataclass(frozen=True)
class _Axis:
    """One factor of the product. Each choice along it sets one or several options."""

    source: str
    choices: list[dict[str, Any]]


def _axes(data: Mapping[str, Any], reader: _Reader) -> list[_Axis]:
    lists = _lists(data.get("parameters", {}), "parameters", reader)
    axes = [_Axis("parameters", [{name: value} for value in values]) for name, values in lists.items()]
    zips = data.get("zip", [])
    for source, lists in [("zip", zips)] if isinstance(zips, dict) else _numbered(zips):
        paired = _lists(lists, source, reader)
        lengths = {name: len(values) for name, values in paired.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise GridError(f"{source}: lists that are walked together must be of one length: {listed}")
        if paired:
            axes.append(
                _Axis(source, [dict(zip(paired, row, strict=True)) for row in zip(*paired.values(), strict=True)])
            )
    if "seeds" in data:
        axes.append(_Axis("seeds", [{"seed": seed} for seed in _seeds(data["seeds"], reader)]))
    return axes


def _numbered(zips: Any) -> list[tuple[str, Any]]:
    if not isinstance(zips, list):
        raise GridError(f"zip: expected an object of lists, or a list of such objects, got {_kind(zips)}")
    return [(f"zip[{index}]", lists) for index, lists in enumerate(zips)]


def _seeds(seeds: Any, reader: _Reader) -> list[Any]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if not 1 <= seeds <= MAX_RUNS:
            raise GridError(f"seeds: expected a number of seeds from 1 to {MAX_RUNS}, or a list of seeds, got {seeds}")
        seeds = list(range(1, seeds + 1))
    elif not isinstance(seeds, list):
        raise GridError(f"seeds: expected a number of seeds or a list of seeds, got {_kind(seeds)}")
    return _lists({"seed": seeds}, "seeds", reader)["seed"]


def _refuse_overlap(axes: Sequence[_Axis], strings: Mapping[str, Sequence[str]]) -> None:
    """Refuse an option that is set twice, as one value would silently override the other."""
    seen: dict[str, str] = {}
    for axis in axes:
        for name in axis.choices[0]:
            other = seen.setdefault(name, axis.source)
            if other is not axis.source:
                raise GridError(f"--{name} is set both in {other} and in {axis.source}: leave it out of one")
            for string, options in strings.items():
                if name in options:
                    raise GridError(f"--{name} is set both in {string} and in {axis.source}: leave it out of one")


def _entries(args: Any, reader: _Reader) -> dict[str, list[str]]:
    """The words of each entry of ``args``, by a description of the entry."""
    if not isinstance(args, list):
        raise GridError(f"args: expected a list of strings, got {_kind(args)}")
    if not args:
        raise GridError("args: the list is empty, so there is nothing to run")
    for index, entry in enumerate(args):
        if not isinstance(entry, str):
            raise GridError(f"args[{index}]: expected a string of options, got {_kind(entry)}")
    return {f"args[{index}] {entry!r}": _split(entry, f"args[{index}]", reader) for index, entry in enumerate(args)}


def _lists(lists: Any, where: str, reader: _Reader) -> dict[str, list[Any]]:
    """The lists of an object, their values converted to the options' types."""
    if not isinstance(lists, dict):
        raise GridError(f"{where}: expected an object of lists, got {_kind(lists)}")
    converted: dict[str, list[Any]] = {}
    for name, values in lists.items():
        if name not in reader.names:
            raise GridError(f"{where}: unknown option {name!r}{did_you_mean(name, reader.names)}")
        if not isinstance(values, list):
            raise GridError(f"{where}.{name}: expected a list of values, got {_kind(values)}")
        if not values:
            raise GridError(f"{where}.{name}: the list is empty, so there is nothing to run")
        converted[name] = [_value(name, value, f"{where}.{name}[{i}]", reader) for i, value in enumerate(values)]
    return converted


def _value(name: str, value: Any, where: str, reader: _Reader) -> Any:
    if not isinstance(value, (str, int, float)):
        raise GridError(f"{where}: expected a number, a string or true/false, got {_kind(value)}")
    if isinstance(value, bool) != (name in reader.booleans):
        wanted = "true or false" if name in reader.booleans else "a number or a string"
        raise GridError(f"{where}: expected {wanted}, got {json.dumps(value)}")
    return getattr(_parse(option_words(name, value), where, reader), name)


def _parse(options: list[str], where: str, reader: _Reader) -> Any:
    for name in ("exp", "root"):
        if any(word.split("=")[0] == f"--{name}" for word in options):
            raise GridError(f"{where}: --{name} is not for experiment files; say it to manager.py")
    try:
        return parse_arguments(options, reader.parser, partial=True, kind=reader.study.settings)
    except SettingsError as error:
        raise GridError(f"{where}: {error}") from None


def _split(text: str, where: str, reader: _Reader) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise GridError(f"{where}: can't split {text!r} into words: {error}") from None
    options = reader.options(words)
    twice = next((name for name in options if options.count(name) > 1), None)
    if twice:
        raise GridError(f"{where}: --{twice} is there twice: leave one out")
    return words


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise GridError(f"{key}: expected a string, got {_kind(value)}")
    return value


def _refuse_duplicates(runs: tuple[ExperimentRun, ...]) -> None:
    seen: dict[str, ExperimentRun] = {}
    for run in runs:
        first = seen.setdefault(run.key, run)
        if first is not run:
            raise GridError(f"two entries are one run ({run.key}): {first.source}; and {run.source}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise GridError(f"the key {name!r} is there twice in one object")
        data[name] = value
    return data


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")
