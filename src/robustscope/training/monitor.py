"""How training goes: clean, FGSM and PGD accuracy on held-out samples, and the alarms that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustscope.attacks.cards import ATTACKS
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

FALL = 0.2
"""A fall of the robust accuracy below its best so far, in fractions, that is an alarm (Wong et al. 2020)."""
GAP = 0.2
"""FGSM accuracy minus PGD accuracy below which there is no alarm: FGSM finds nearly all that PGD finds."""
LEFT = 0.25
"""PGD accuracy over FGSM accuracy below which FGSM has lost its way, whatever was before."""


@dataclass(frozen=True)
class HeldOut:
    """Samples that training never sees.

    Args:
        x: (B, *S).
        y: int64 (B,).
        draws: random numbers of these samples; the same at every look, so that looks are paired.
    """

    x: Tensor
    y: Tensor
    draws: Draws


@dataclass(frozen=True)
class Reading:
    """What held-out samples say of the network, all as fractions.

    Args:
        clean: accuracy on clean samples.
        fgsm: accuracy after one step of length epsilon from the sample.
        robust: accuracy after PGD; a sample that FGSM breaks counts as broken too.
        alignment: mean cosine between the loss gradient at the sample and at a uniform point of the ball, samples whose
            gradient is zero left out; NaN where all are.
        largest: share of the samples that get the most frequent prediction; 1 means the network says one thing only.
    """

    clean: float
    fgsm: float
    robust: float
    alignment: float
    largest: float

    def row(self) -> dict[str, float | None]:
        """Return the figures of the history; an alignment that does not exist is None."""
        return {
            "clean": self.clean,
            "fgsm": self.fgsm,
            "robust": self.robust,
            "alignment": None if math.isnan(self.alignment) else self.alignment,
        }


def look(model: Classifier, held: HeldOut, threat: ThreatModel, steps: int) -> Reading:
    """Measure a network on held-out samples.

    Args:
        model: the network, in evaluation mode.
        held: the samples.
        threat: threat model at full radius.
        steps: of PGD, at 2.5 epsilon / steps each, from a uniform point.
    """
    x, y = held.x, held.y
    logits = model.logits(x)
    right = logits.argmax(1) == y
    one = ATTACKS["fgsm"].function(model, x, y, threat, draws=held.draws.within("fgsm")).x_adv
    after_one = right & ~is_adversarial(model.logits(one), y)
    many = ATTACKS["pgd"].function(
        model, x, y, threat, draws=held.draws.within("pgd"), steps=steps, relative_step_size=max(2.5 / steps, 0.1)
    )
    after_many = after_one & ~is_adversarial(model.logits(many.x_adv), y)
    return Reading(
        right.double().mean().item(),
        after_one.double().mean().item(),
        after_many.double().mean().item(),
        alignment(model, held, threat),
        logits.argmax(1).bincount().max().item() / len(y),
    )


def alignment(model: Classifier, held: HeldOut, threat: ThreatModel) -> float:
    """Return the mean cosine between loss gradients at samples and at uniform points of their balls.

    Source: Andriushchenko & Flammarion 2020, arXiv:2007.02617, Eq. 4.
    """

    def gradient(point: Tensor) -> Tensor:
        return model.gradient(lambda logits, rows: cross_entropy(logits, held.y[rows]), point)[1].flatten(1).double()

    here = gradient(held.x)
    there = gradient(balls.sample(threat, held.x, held.draws, "alignment"))
    moved = (here.abs().amax(1) > 0) & (there.abs().amax(1) > 0)
    return F.cosine_similarity(here[moved], there[moved], eps=1e-300).mean().item() if moved.any() else math.nan


def overfits_catastrophically(now: Reading, before: Reading) -> str:
    """Return why a reading is catastrophic overfitting, or "".

    Args:
        now: the reading.
        before: the reading of highest robust accuracy so far, of the network at the start if there was none.

    Source: the fall of 0.2 stops training in Wong, Rice, Kolter 2020, arXiv:2001.03994, Sec. 5.4; that FGSM accuracy stays
        while PGD accuracy falls is the definition of Andriushchenko & Flammarion 2020, arXiv:2007.02617, Sec. 3.
    """
    if now.fgsm - now.robust <= GAP:
        return ""
    if before.robust - now.robust > FALL:
        return (
            f"robust accuracy fell from {100 * before.robust:.1f} to {100 * now.robust:.1f} %, FGSM accuracy is "
            f"{100 * now.fgsm:.1f} %"
        )
    if now.robust < LEFT * now.fgsm:
        return f"FGSM accuracy is {100 * now.fgsm:.1f} %, PGD accuracy {100 * now.robust:.1f} %"
    return ""


def stalls(now: Reading, rows: Sequence[Mapping[str, float]], classes: int) -> str:
    """Return that training stands still at a constant prediction, or "".

    Args:
        now: the reading.
        rows: the last rows of the history, of two epochs or more: one alone proves nothing.
        classes: K; a constant prediction at balanced classes has the loss log(K) at best.
    """
    if now.largest < 1 or len(rows) < 2 or min(row["loss"] for row in rows) < 0.9 * math.log(classes):
        return ""
    return (
        "stalled at a constant prediction: let epsilon rise slowly (epsilon_ramp = 0.5), lower the learning rate, or start "
        "from a network that was trained on clean samples"
    )
