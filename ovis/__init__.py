"""Gradient estimators for importance-weighted bounds, and the runner that turns an experiment file into a figure.

``ovis.functional``, ``ovis.models``, ``ovis.estimators`` and ``ovis.analysis`` are the library: torch and NumPy only.
``ovis.experiments`` trains, resumes and reports; ``ovis.paper`` holds what belongs to one paper.

    >>> from ovis import get_config
    >>> Estimator, config = get_config("ovis-gamma1")
    >>> estimator = Estimator(iw=16, **config)  # then: loss, diagnostics, output = estimator(model, x)
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> module; imported at first use, so that ``import ovis`` costs nothing.
_LAZY = {
    "Aggregator": "ovis.diagnostics",
    "Diagnostic": "ovis.diagnostics",
    "Template": "ovis.models",
    "get_config": "ovis.estimators.config",
}

__all__ = ["Aggregator", "Diagnostic", "Template", "__version__", "get_config"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ovis' has no attribute {name!r}")
