"""Networks behind something else, as subjects of measurements."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from robustscope.claims.lab import Subject
from robustscope.core.types import Ledger
from robustscope.models.classifier import Classifier
from robustscope.models.fingerprints import fingerprint


def behind(subject: Subject, name: str, module: nn.Module) -> Subject:
    """Return the subject with another module in place of its own, which may return probabilities."""
    return seen(name, replace(subject.model, module=module, allow_probabilities=True, ledger=Ledger()))


def seen(name: str, model: Classifier) -> Subject:
    """Return a classifier that nothing was trained for as a subject; ``name`` enters its fingerprint."""
    told = fingerprint(model.module, bounds=model.bounds, mean=model.mean, std=model.std, description=name)
    return Subject(name, model, told)
