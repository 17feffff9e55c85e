"""Objectives for adaptive attacks: matching logits or activations, and fooling a detector together with the network.

They are called as the losses of :mod:`robustscope.geometry.losses` are, ``(logits, y, targets) -> (B,)``, and are
handed to an attack from Python: ``attack("pgd", ..., loss=MatchLogits(wanted))``. Those that hold one value for each
sample have a method ``select``, which attacks call whenever samples leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue


def _same_rows(given: Tensor, wanted: Tensor, what: str) -> None:
    if given.shape != wanted.shape:
        raise InvalidValue(
            f"{what} of shape {tuple(wanted.shape)} were given for outputs of shape {tuple(given.shape)}",
            "one row for each sample, of the width of the outputs, is allowed",
            "Build the objective from one guide input for each attacked input, with the same model.",
        )


@dataclass(frozen=True)
class MatchLogits:
    """Minus half the squared distance between the logits and those of a guide, for each sample.

    Args:
        wanted: (B, K), logits to match.

    Source: logit matching, Tramer et al. 2020, arXiv:2002.08347, Sec. 4 and 5.
    """

    wanted: Tensor

    def __call__(self, logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return (B,), at most 0, 0 where the logits match."""
        _same_rows(logits, self.wanted, "logits to match")
        return -(logits - self.wanted).square().sum(1) / 2

    def select(self, rows: Tensor) -> MatchLogits:
        """Return the objective of the samples ``rows``."""
        return MatchLogits(self.wanted[rows])


def activations(outputs: Tensor, classes: int) -> Tensor:
    """Return the activations (B, F) that the outputs of a tapped model carry behind their ``classes`` logits."""
    return outputs[:, classes + 1 :] - outputs[:, classes : classes + 1]


@dataclass(frozen=True)
class MatchFeatures:
    """Minus half the squared distance between the activations of a layer and those of a guide, for each sample.

    Args:
        wanted: (B, F), activations to match.
        classes: K, number of logits that stand before the activations.

    Source: Sabour, Cao, Faghri, Fleet 2016, arXiv:1511.05122, Eq. 1.
    """

    wanted: Tensor
    classes: int

    def __call__(self, outputs: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return (B,), at most 0, 0 where the activations match."""
        inner = activations(outputs, self.classes)
        _same_rows(inner, self.wanted, "activations to match")
        return -(inner - self.wanted).square().sum(1) / 2

    def select(self, rows: Tensor) -> MatchFeatures:
        """Return the objective of the samples ``rows``."""
        return MatchFeatures(self.wanted[rows], self.classes)


@dataclass(frozen=True)
class Joint:
    """Misclassification and acceptance at once, for outputs whose last column is the class "rejected".

    With c, by how much the wanted class falls short (the largest other logit minus the target's; the true one minus
    the largest other without targets), and d, by how much the detector's score exceeds its threshold (in logits):

    - "max": -max(c, d), the worse of the two alone;
    - "sum": -(max(c, 0) + max(d, 0)), both until each is met.

    Either is at least 0 exactly where both are met, ties aside. ``weight`` multiplies d. Where the score depends on the
    predicted class, "max" can be pulled to and fro at the boundary; "sum", or the plain margin of the composed outputs,
    goes on.

    Args:
        combine: "max" or "sum".
        weight: of the detector against the network, > 0.

    Source: Tramer et al. 2020, arXiv:2002.08347, Sec. 4.
    """

    combine: Literal["max", "sum"] = "max"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.combine not in ("max", "sum") or not 0 < self.weight < float("inf"):
            raise InvalidValue(
                f"combine={self.combine!r} and weight={self.weight} were given",
                "'max' or 'sum', and a finite weight > 0, are allowed",
                "Write e.g. Joint('max', weight=1.0).",
            )

    def __call__(self, outputs: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return (B,) for outputs (B, K + 1)."""
        logits, rejected = outputs[:, :-1], outputs[:, -1]
        chosen = (y if targets is None else targets)[:, None]
        rival = logits.scatter(1, chosen, float("-inf")).amax(1)
        short = rival - logits.gather(1, chosen)[:, 0]
        short = -short if targets is None else short
        excess = self.weight * (rejected - logits.amax(1))
        if self.combine == "max":
            return -torch.maximum(short, excess)
        return -(short.clamp(min=0) + excess.clamp(min=0))
