"""A lab in which what a network does is written down beforehand, so that a claim can be asked in a world known to be so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from robustscope.claims import CLAIMS, Lab, Setting, Subject
from robustscope.probes.why import Findings

Told = Callable[[SimpleNamespace, str, torch.Tensor], Any]


class World(Lab):
    """A lab whose networks are what was asked for, and whose measurements come from ``told``.

    Args:
        told: (what was asked of a network, what is measured, inputs) -> a share for "correct" and "robust", a length for
            "distance", columns and figures for a probe, a history for "history".
        data: source.
    """

    def __init__(self, told: Told, data: str) -> None:
        super().__init__(Path("nowhere"), Setting(data, "digits"))
        self.told = told

    def network(self, seed=0, *, name="", data=None, radius=1.0, given=None, **changes):
        asked = {"name": name, "data": data, "objective": "", "sparsity": {}, "epochs": 60, "model_parameters": {}}
        how = SimpleNamespace(**{**asked, "seed": seed, "given": given, "smoothed": False, **changes})
        history = self.told(how, "history", torch.zeros(1, 1))
        if not isinstance(history, list):
            history = [{"loss": 1.0}] * how.epochs
        model = SimpleNamespace(how=how, module=torch.nn.Linear(2, 2))
        model.decisions = lambda x: self.told(how, "decisions", x)
        return Subject(name, model, "planted", tuple(history))

    def correct(self, subject, batch):
        return share(self.told(subject.model.how, "correct", batch.x), len(batch))

    def robust(self, subject, batch, threat=None):
        return share(self.told(subject.model.how, "robust", batch.x), len(batch))

    def distance(self, subject, batch, norm="l2", method="deepfool"):
        return torch.full((len(batch),), float(self.told(subject.model.how, "distance", batch.x)))

    def find(self, probe, subject, batch, **parameters):
        found = self.told(subject.model.how, probe, batch.x)
        columns = {name: torch.full((len(batch),), float(value)) for name, value in found.items()}
        curve = torch.ones(len(batch), 2)
        return Findings(columns, found, {"high": curve}, {"high": (np.array([1.0, 2.0]),)})


def share(part: float, count: int) -> torch.Tensor:
    """Return the first so many of the samples as True."""
    return torch.arange(count) < round(part * count)


def verdict(name: str, told: Told, **parameters: Any) -> str:
    """Return the verdict about a claim in a world."""
    card = CLAIMS[name]
    few = {"seeds": 3, "samples": 100, **parameters}
    given = card.resolve({key: value for key, value in few.items() if key in card.parameters})
    evidence = card.function(World(told, card.data), **given)
    return card.judge(evidence.effects)[0]
