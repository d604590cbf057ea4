"""The options of a run, in particular of a training: the command line, defaults, validation and the run's identity.

It does not import torch, so the manager and the reports import it in milliseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import reprlib
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ovis.estimators.ids import ESTIMATORS, auxiliary_count, parse_estimator
from ovis.experiments.datasets import DATASETS
from ovis.experiments.models import MODELS
from ovis.suggestions import did_you_mean

__all__ = [
    "RunSettings",
    "SettingsError",
    "TrainSettings",
    "build_parser",
    "check_type",
    "option",
    "parse_arguments",
    "parse_particles_per_pass",
    "value_type",
]


class SettingsError(ValueError):
    """An unknown option or an invalid value; the message, one line, names it and what would be valid."""


def option(
    default: Any,
    help: str,
    *,
    choices: Collection[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    identity: bool = True,
    canonical: Callable[[Any], Any] | None = None,
) -> Any:
    """A field of a settings class.

    Args:
        default: the value if the option is not given.
        help: one line for ``--help``.
        choices: the valid values, if they can be listed.
        low: the smallest valid number.
        high: the largest valid number.
        identity: whether runs that differ only in this option are different runs (False if it does not affect results).
        canonical: converts a valid value to the one that all values of the same meaning share, e.g. an alias to the
            name that it stands for.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "low": low,
            "high": high,
            "identity": identity,
            "canonical": canonical,
        },
    )


@dataclass(frozen=True)
class RunSettings(ABC):
    """The options of one run of a study. A study's options are a subclass, a frozen dataclass.

    The fields of the subclass, made by :func:`option`, define its command line and the keys of an experiment file. The
    options here are set by the manager, and so no part of a run's identity.

    Raises:
        SettingsError: a value of the wrong type or out of range.
    """

    exp: str = option("sandbox", "name of the experiment, whose runs are in ROOT/EXP", identity=False)
    root: str = option("runs/", "folder of all experiments", identity=False)
    data_root: str = option("data/", "folder of the data sets", identity=False)
    device: str = option("auto", "auto, cpu, cuda or cuda:N", identity=False)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            check_type(type(self), item.name, value)
            _check_valid(item, value)

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The parts of the run's folder name, without its key. The first one may be any text; empty parts are left
        out."""

    @property
    def work(self) -> int:
        """The amount of work, by which the runs of an experiment are weighted in its progress; 0: not known."""
        return 0

    @property
    def unused(self) -> Collection[str]:
        """The names of the options whose values make no difference to this run; no part of its identity."""
        return ()

    def check_combination(self) -> None:  # noqa: B027
        """Refuse options that are valid one by one but can't be combined.

        Raises:
            SettingsError: there are such options.
        """


_OWN_MODEL = " and ".join(sorted(name for name, entry in DATASETS.items() if entry.model))


def _canonical_estimator(name: str) -> str:
    return parse_estimator(name).canonical


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """The options of one training run, named as in the reference experiments.

    Raises:
        SettingsError: a value of the wrong type or out of range, an unknown estimator, data set or model.
    """

    id: str = option("", "a label of your choice, part of the run's name (report.py --include filters by it)")
    seed: int = option(1, "seed of all random numbers", low=0, high=2**32 - 1)

    # data
    dataset: str = option("shapes", "data set", choices=DATASETS)
    mini: bool = option(False, "train and evaluate on a small seeded subset of the data")
    only_train_set: bool = option(False, "evaluate on the training set only")

    # length
    epochs: int = option(-1, "epochs of training; -1: as many as --nsteps needs", low=-1)
    nsteps: int = option(500_000, "optimizer steps, if --epochs is -1", low=1)

    # optimization
    optimizer: str = option("adam", "optimizer", choices=("adam", "adamax", "sgd", "rmsprop"))
    lr: float = option(2e-3, "learning rate", low=0.0)
    baseline_lr: float = option(5e-3, "learning rate of the neural baseline (reinforce-baseline)", low=0.0)
    lr_reduce_steps: int = option(0, "number of times to halve the learning rate, at equal intervals; 0: never", low=0)
    bs: int = option(32, "training batch size", low=1)
    valid_bs: int = option(50, "evaluation batch size, validation set", low=1)
    test_bs: int = option(50, "evaluation batch size, training and test sets", low=1)
    compile: bool = option(False, "compile the training step (torch.compile): takes a minute, then faster")
    capture: bool = option(False, "record the training step as a CUDA graph and replay it (CUDA only)")

    # estimator
    estimator: str = option(
        "reinforce", "gradient estimator, e.g. ovis-gamma1, vimco, tvo-part2-config1", canonical=_canonical_estimator
    )
    mc: int = option(1, "independent copies of the bound that are averaged, M", low=1)
    iw: int = option(1, "particles per bound, K", low=1)
    particles_per_pass: str = option("all", "particles of a datum in memory at once: a number, all, or auto")
    beta: float = option(1.0, "weight of the KL term", low=0.0)
    tau: float = option(0.0, "temperature of relaxed samples; 0: exact discrete samples", low=0.0)
    freebits: float | None = option(None, "floor of each layer's log q - log p, in nats; none: no floor")
    alpha: float = option(0.0, "order of the Renyi bound; 0: importance-weighted bound (IWAE)", low=0.0, high=1 - 1e-6)
    alpha_init: float = option(0.9, "alpha at the first step, if --warmup is above 0", low=0.0, high=1 - 1e-6)
    warmup: int = option(0, "steps over which alpha goes from --alpha_init to --alpha; 0: constant alpha", low=0)
    warmup_offset: int = option(0, "steps before the warm-up starts", low=0)
    warmup_mode: str = option("log", "shape of the warm-up", choices=("linear", "log", "sigmoid"))

    # model
    model: str = option("vae", f"model (fixed for the data sets {_OWN_MODEL})", choices=MODELS)
    hdim: int = option(64, "units of a hidden layer", low=1)
    nlayers: int = option(3, "hidden layers of each perceptron; 0: linear", low=0)
    depth: int = option(3, "stochastic layers, L", low=1)
    b_nlayers: int = option(1, "hidden layers of the neural baseline", low=0)
    normalization: str = option("none", "normalization of hidden layers", choices=("none", "layernorm", "batchnorm"))
    dropout: float = option(0.0, "dropout of hidden layers", low=0.0, high=1.0)
    prior: str = option("normal", "family of the latent variables", choices=("normal", "categorical", "bernoulli"))
    N: int = option(32, "latent variables of a layer", low=1)
    K: int = option(8, "categories of a categorical latent variable", low=2)
    kdim: int = option(0, "size of a category's embedding; 0: one-hot", low=0)
    learn_prior: bool = option(False, "learn the parameters of the prior")
    use_data_mean: bool = option(True, "centre x of a VAE at the data's mean, and start its decoder's bias there")

    # evaluation
    select_on: str = option(
        "valid",
        "held-out set that chooses the best parameters; the other one is measured once, at the end",
        choices=("valid", "test"),
    )
    eval_freq: int = option(10, "epochs between evaluations", low=1)
    max_eval: int = option(10_000, "largest number of data points in an evaluation", low=1)
    iw_valid: int = option(1000, "particles of the bound on the validation set", low=1)
    iw_test: int = option(1000, "particles of the bound on the training and test sets", low=1)

    # analysis
    grad_samples: int = option(100, "gradient draws of the analysis at each evaluation; 0: none", low=0)
    grad_bs: int = option(10, "data points of the analysed gradient", low=1)
    grad_key: str = option("", "parameters to analyse, by parts of their names (a,b), or tensor:qlogits; none: q's")
    grad_epsilon: float = option(1e-15, "parameters with less gradient variance are excluded", low=0.0)
    mc_au_analysis: int = option(0, "samples per datum of the active-units analysis; 0: none", low=0)
    npoints_au_analysis: int = option(1000, "data points of the active-units analysis", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs == 0:
            raise SettingsError("--epochs: 0 trains nothing; valid: -1 (then --nsteps decides) or 1 and more")
        if self.grad_samples == 1:
            raise SettingsError("--grad_samples: a variance needs 2 draws; valid: 0 (no analysis) or 2 and more")
        try:
            parse_estimator(self.estimator)
        except ValueError as error:
            raise SettingsError(f"--estimator: {error}") from None
        try:
            parse_particles_per_pass(self.particles_per_pass)
        except ValueError as error:
            raise SettingsError(f"--particles_per_pass: {error}") from None

    @property
    def trained_model(self) -> str:
        """Name of the model that is trained: that of the data set, if it has one."""
        return DATASETS[self.dataset].model or self.model

    @property
    def model_options(self) -> dict[str, Any]:
        """The options of the trained model."""
        return {name: getattr(self, name) for name in MODELS[self.trained_model].options}

    @property
    def dataset_options(self) -> dict[str, Any]:
        """The options of the data set."""
        return {name: getattr(self, name) for name in DATASETS[self.dataset].options}

    @property
    def analysed_parameters(self) -> str:
        """``grad_key``; if it is empty, the names of q's parameters in the trained model."""
        return self.grad_key or MODELS[self.trained_model].inference_parameters

    @property
    def labels(self) -> tuple[str, ...]:
        estimator = parse_estimator(self.estimator).canonical
        return self.id, self.dataset, self.trained_model, estimator, f"iw{self.iw}", f"seed{self.seed}"

    @property
    def work(self) -> int:
        """The optimizer steps; 0 where ``--epochs`` decides."""
        return self.nsteps if self.epochs < 0 else 0

    @property
    def unused(self) -> set[str]:
        model, dataset = MODELS[self.trained_model], DATASETS[self.dataset]
        used = set(model.options) | set(dataset.options)
        tables = [entry.options for entry in MODELS.values()] + [entry.options for entry in DATASETS.values()]
        tables += [facts.options for facts in ESTIMATORS.values()]
        unused = {option for options in tables for option in options}
        if "prior" in used and self.prior != "categorical":
            used -= {"K", "kdim"}
        unused -= used | set(parse_estimator(self.estimator).facts.options)
        if dataset.model:
            unused.add("model")
        if self.only_train_set:
            unused |= {"select_on", "valid_bs", "iw_valid"}
        if not self.warmup:
            unused |= {"alpha_init", "warmup_offset", "warmup_mode"}
        if self.epochs > 0:
            unused.add("nsteps")
        if not self.grad_samples:
            unused |= {"grad_bs", "grad_key", "grad_epsilon"}
        if self.grad_key == model.inference_parameters:  # as without it
            unused.add("grad_key")
        if not self.mc_au_analysis:
            unused.add("npoints_au_analysis")
        return unused

    def check_combination(self) -> None:
        """Refuse options that are valid one by one but can't be combined.

        Raises:
            SettingsError: the estimator has no such option, needs more particles, or can't train the model.
        """
        _check_estimator(self)
        _check_model(self)
        if (self.compile or self.capture) and self.particles_per_pass != "all":
            raise SettingsError(
                "--particles_per_pass: must be all with --compile and --capture, which see no second pass"
            )


def parse_particles_per_pass(text: str) -> int | str | None:
    """Convert ``--particles_per_pass`` to an estimator's setting: a number, auto, or None for all.

    Raises:
        ValueError: anything else, including other notations of a number, as the text is part of a run's identity.
    """
    if text in ("all", "auto"):
        return None if text == "all" else text
    if not (text.isdecimal() and text.isascii()) or text.startswith("0"):
        raise ValueError(f"unknown value {text!r}; valid: all, auto, or an integer of at least 1, e.g. 1000")
    return int(text)


def _check_estimator(settings: TrainSettings) -> None:
    name = settings.estimator
    spec = parse_estimator(name)
    for option, reason in spec.lacks.items():
        if getattr(settings, option) != getattr(TrainSettings, option):
            raise SettingsError(f"--{option}: {name} has no such setting: {reason}")
    if "alpha" in spec.lacks and settings.warmup:
        raise SettingsError(f"--warmup: {name} has no alpha")
    if spec.needs_two_particles and settings.iw < 2:
        raise SettingsError(f"--iw: {name} leaves one particle out and needs at least 2, got {settings.iw}")
    if spec.family == "ovis-S" and not spec.config["exclusive"]:
        count = auxiliary_count(spec.config["auxiliary"], settings.iw)  # type: ignore[arg-type]
        if count >= settings.iw:
            raise SettingsError(f"--iw: {name} takes {count} particles as auxiliary samples, of {settings.iw}: too few")
    if settings.tau > 0 and not spec.facts.reparameterized:
        raise SettingsError(f"--tau: {name} needs exact samples, tau must be 0")


def _check_model(settings: TrainSettings) -> None:
    model, name = settings.trained_model, settings.estimator
    options = MODELS[model].options
    normalized = settings.normalization == "batchnorm" and "normalization" in options
    if normalized and settings.nlayers and settings.particles_per_pass != "all":
        raise SettingsError(
            "--particles_per_pass: --normalization batchnorm sees all particles at once, it must be all"
        )
    sources = [dataset for dataset, entry in DATASETS.items() if entry.model == model]
    if sources and settings.dataset not in sources:
        raise SettingsError(
            f"--model: {model!r} has data of its own, use --dataset {sources[0]}, not {settings.dataset}"
        )
    discrete = "prior" in options and settings.prior != "normal"
    if settings.tau > 0 and not discrete:
        raise SettingsError(f"--tau: {model!r} has no discrete variables to relax here, tau must be 0")
    if not parse_estimator(name).facts.reparameterized:
        return
    if not MODELS[model].reparameterized:
        raise SettingsError(f"--estimator: {name} needs reparameterized samples, which {model!r} has not")
    if discrete and settings.tau == 0:
        raise SettingsError(f"--estimator: {name} needs relaxed samples of a {settings.prior} prior: set --tau above 0")


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    """The types of the fields, cached because a grid makes thousands of settings."""
    return typing.get_type_hints(kind)


def _scalar(kind: Any) -> type:
    """The type without None: ``float`` for ``float | None``."""
    scalars = [t for t in typing.get_args(kind) or (kind,) if t is not type(None)]
    return typing.cast(type, scalars[0])


def check_type(kind: type[RunSettings], option: str, value: Any) -> None:
    """Check that the value of an option is of its type, and a number finite.

    Args:
        kind: the settings class.
        option: a field of it.
        value: the value.

    Raises:
        SettingsError: it is not.
    """
    name, type_ = f"--{option}", _types(kind)[option]
    if value is None and type(None) in typing.get_args(type_):
        return
    wanted = _scalar(type_)
    accepted: Any = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise SettingsError(f"{name}: expected {wanted.__name__}, got {reprlib.repr(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name}: must be finite, got {value}")


def _check_valid(item: dataclasses.Field[Any], value: Any) -> None:
    """Check that a value of the right type is one of the valid ones.

    Raises:
        SettingsError: it is not.
    """
    name, choices = f"--{item.name}", item.metadata["choices"]
    if value is None:
        return
    if choices and value not in choices:
        raise SettingsError(f"{name}: unknown value {value!r}{did_you_mean(value, choices)}")
    low, high = item.metadata["low"], item.metadata["high"]
    if low is not None and value < low:
        raise SettingsError(f"{name}: must be at least {low}, got {value}")
    if high is not None and value > high:
        raise SettingsError(f"{name}: must be at most {high}, got {value}")


def value_type(kind: type, name: str) -> type:
    """The type of an option's value: ``float`` for ``float | None``."""
    return _scalar(_types(kind)[name])


class _Parser(argparse.ArgumentParser):
    """Raises an error instead of exiting: a whole grid is validated in one process."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def build_parser(kind: type[RunSettings] = TrainSettings, **kwargs: Any) -> argparse.ArgumentParser:
    """The command-line parser of a run, with one option for each field of its settings class."""
    parser = _Parser(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)
    for item in dataclasses.fields(kind):
        scalar, name, text = _types(kind)[item.name], f"--{item.name}", item.metadata["help"].replace("%", "%%")
        if item.metadata["choices"]:
            text += f": {', '.join(item.metadata['choices'])}"
        if scalar is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=item.default, help=text)
        else:
            optional, metavar = type(None) in typing.get_args(scalar), {int: "N", float: "X", str: "NAME"}
            read = _optional(_scalar(scalar)) if optional else _scalar(scalar)
            if read is int:
                read = _integer
            parser.add_argument(name, type=read, default=item.default, help=text, metavar=metavar[_scalar(scalar)])
    return parser


def _integer(text: str) -> int:
    """An integer, written as 1000, 1e5 or 100_000."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(text) if text.lstrip("+-").isdigit() else int(value)


_integer.__name__ = "int"  # argparse names the type in its messages


def _optional(read: type) -> Any:
    def reader(text: str) -> Any:
        return None if text.lower() == "none" else read(text)

    reader.__name__ = f"{read.__name__} or none"
    return reader


def parse_arguments(
    argv: Sequence[str],
    parser: argparse.ArgumentParser | None = None,
    partial: bool = False,
    kind: type[RunSettings] = TrainSettings,
) -> Any:
    """Parse command-line words to validated settings.

    Args:
        argv: e.g. ``["--estimator", "vimco", "--iw", "10"]``.
        parser: a parser to reuse when many runs are parsed (building one takes longer than using it), or one with
            further options, which are ignored here.
        partial: the words are only some of a run's options, so combinations are not checked.
        kind: the settings class of the study.

    Returns:
        an instance of ``kind``.

    Raises:
        SettingsError: an unknown option (the nearest valid one is named), an invalid value, or an invalid combination.
    """
    parser = parser or build_parser(kind)
    namespace, unknown = parser.parse_known_args(list(argv))
    if unknown:
        valid = [f"--{f.name}" for f in dataclasses.fields(kind)]
        raise SettingsError(f"unknown option {unknown[0]!r}{did_you_mean(unknown[0].split('=')[0], valid)}")
    settings = kind(**{item.name: getattr(namespace, item.name) for item in dataclasses.fields(kind)})
    if not partial:
        settings.check_combination()
    return settings
