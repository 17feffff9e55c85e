"""robustscope: how robust is a neural network really, why, and how to make it more so.

Importing this package computes nothing and imports no torch; the public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "evaluate": "robustscope.api",
    "Evaluation": "robustscope.api",
    "attack": "robustscope.attacks.compose",
    "worst_case": "robustscope.attacks.compose",
    "Attempt": "robustscope.attacks.compose",
    "verify": "robustscope.attacks.verify",
    "trust": "robustscope.runs.trust",
    "train": "robustscope.training",
    "Recipe": "robustscope.training",
    "load_recipe": "robustscope.training",
    "Classifier": "robustscope.models.classifier",
    "BlackBox": "robustscope.models.blackbox",
    "load_model": "robustscope.models.loading",
    "load_data": "robustscope.data.datasets",
    "from_tensors": "robustscope.data.datasets",
    "ThreatModel": "robustscope.core.types",
    "Bounds": "robustscope.core.types",
    "Draws": "robustscope.core.draws",
    "RobustscopeError": "robustscope.core.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'robustscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
