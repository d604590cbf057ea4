"""Gradient estimators for importance-weighted bounds, and the runner that turns an experiment file into a figure.

``ovis.functional``, ``ovis.models``, ``ovis.estimators`` and ``ovis.analysis`` are the library: torch and NumPy only.
``ovis.experiments`` trains, resumes and reports; ``ovis.paper`` holds what belongs to one paper.

    >>> import ovis
    >>> estimator = ovis.estimator("ovis-gamma1", iw=16)  # then: loss, diagnostics, output = estimator(model, x)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovis.analysis.check_model import check_model
    from ovis.analysis.evaluate import evaluate
    from ovis.diagnostics import Aggregator, Diagnostic
    from ovis.estimators.config import estimator, get_config
    from ovis.experiments.training.load_run import LoadedRun
    from ovis.models import Model, Template

__version__ = "0.1.0"

#: Public name -> module; imported at first use, so that ``import ovis`` costs nothing.
_LAZY = {
    "Aggregator": "ovis.diagnostics",
    "Diagnostic": "ovis.diagnostics",
    "Model": "ovis.models",
    "Template": "ovis.models",
    "check_model": "ovis.analysis.check_model",
    "estimator": "ovis.estimators.config",
    "evaluate": "ovis.analysis.evaluate",
    "get_config": "ovis.estimators.config",
}

__all__ = [
    "Aggregator",
    "Diagnostic",
    "Model",
    "Template",
    "__version__",
    "check_model",
    "estimator",
    "evaluate",
    "get_config",
    "load_run",
]


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
    """Load the model, the settings and the data of a training run of the experiment runner from its folder.

        model, settings, data = ovis.load_run("runs/quickstart/digits-sbm-vimco-iw10-seed1-1a2b3c4d5e6f")
        print(ovis.evaluate(model, data.test.float()))

    The parameters are the best ones (``best.pt``), chosen by ``--select_on``; before the first evaluation, those of the
    last checkpoint. The data set is that of the run, from its ``data_root``. Neither the files nor torch's global
    random state are changed.

    Args:
        folder: the folder of the run, ROOT/EXP/NAME, of a finished run or of one that is still going on.

    Returns:
        ``model``, on the CPU and in evaluation mode; ``settings``; ``data``, with ``train``, ``valid`` and ``test``.

    Raises:
        ImportError: a package of ``ovis[experiments]``, or one that the data set needs, is not installed.
        FileNotFoundError: it is no folder of a run.
        ValueError: the run has no parameters yet, or its files are damaged or of another version.
    """
    try:
        module = importlib.import_module("ovis.experiments.training.load_run")
    except ModuleNotFoundError as error:
        raise ImportError(f"ovis.load_run needs {error.name}: pip install 'ovis[experiments]'") from error
    run: LoadedRun = module.load_run(folder)
    return run


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ovis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
