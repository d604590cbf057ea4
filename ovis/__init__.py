"""Gradient estimators for importance-weighted bounds, and the runner that turns an experiment file into a figure.

``ovis.functional``, ``ovis.models``, ``ovis.estimators`` and ``ovis.analysis`` are the library: torch and NumPy only.
``ovis.experiments`` trains, resumes and reports; ``ovis.paper`` holds what belongs to one paper.

    >>> import ovis
    >>> estimator = ovis.estimator("ovis-gamma1", iw=16)  # then: loss, diagnostics, output = estimator(model, x)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovis.analysis.evaluate import evaluate
    from ovis.diagnostics import Aggregator, Diagnostic
    from ovis.estimators.config import estimator, get_config
    from ovis.models import Model, Template

__version__ = "0.1.0"

#: Public name -> module; imported at first use, so that ``import ovis`` costs nothing.
_LAZY = {
    "Aggregator": "ovis.diagnostics",
    "Diagnostic": "ovis.diagnostics",
    "Model": "ovis.models",
    "Template": "ovis.models",
    "estimator": "ovis.estimators.config",
    "evaluate": "ovis.analysis.evaluate",
    "get_config": "ovis.estimators.config",
}

__all__ = ["Aggregator", "Diagnostic", "Model", "Template", "__version__", "estimator", "evaluate", "get_config"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ovis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
