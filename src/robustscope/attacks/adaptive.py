"""Attacks that fit a defence: every wrong class in turn, through a detector, and towards a guide's logits or activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.cards import AttackCard
from robustscope.attacks.compose import Outcome, attack
from robustscope.attacks.verify import verify
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.objectives import MatchFeatures, MatchLogits, activations
from robustscope.models.classifier import Classifier
from robustscope.models.features import Tapped


def multi_targeted(
    name: str | AttackCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    count: int | None = None,
    rejected: int | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Outcome:
    """Attack towards the likeliest wrong classes in turn, and judge by the joint criterion.

    Success: the prediction is a class other than the true one and other than ``rejected``. In terms of the one rule,
    the example is adversarial for a target, and neither of these two is ever a target. A sample leaves with its first
    success, whichever class it was that the attack aimed at.

    Args:
        name: registered name, or a card, of an attack whose goals include "targeted".
        model: classifier under attack, perhaps one of :func:`robustscope.models.detectors.rejecting`.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: threat model, or a text such as "linf:8/255" in the bounds of the model.
        count: how many classes are tried, those of the largest clean logits first; None tries all.
        rejected: class that means "no answer", usually the last; None if there is none.
        draws: random numbers; None numbers the samples 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        **parameters: hyper-parameters of the attack; ``loss`` may be a function.

    Returns:
        The result, with the rows of all runs added up, and the verdict by the joint criterion. Of a sample that
        withstands all runs the example of the last run is returned.

    Raises:
        InvalidValue: if there is no class to aim at, or for a count below one; else as :func:`attack`.

    Source: multi-targeted attack: Gowal et al. 2019, arXiv:1910.09338; joint criterion: Tramer et al. 2020,
        arXiv:2002.08347, Sec. 4.
    """
    threat = ThreatModel.parse(threat, model.bounds) if isinstance(threat, str) else threat
    draws = draws or Draws(seed, tuple(range(len(x))))
    model.check_inputs(x, y)
    ranked = _wrong_classes(model, x, y, rejected, count)
    x_adv = x.clone()
    forward, backward = torch.ones_like(y), torch.zeros_like(y)
    aims = ranked[:, 0].clone()
    rows = torch.arange(len(x), device=x.device)
    loss = parameters.pop("loss", None)
    for rank in range(ranked.shape[1]):
        if not len(rows):
            break
        if loss is not None:
            select = getattr(loss, "select", None)
            parameters["loss"] = loss if select is None else select(rows)
        outcome = attack(
            name,
            model,
            x[rows],
            y[rows],
            threat.select(rows),
            targets=ranked[rows, rank],
            draws=draws.select(rows).within(f"target/{rank}"),
            **parameters,
        )
        x_adv[rows] = outcome.result.x_adv
        forward[rows] += outcome.result.forward
        backward[rows] += outcome.result.backward
        reached = outcome.verdict.prediction
        beaten = (reached != y[rows]) & (reached != (-1 if rejected is None else rejected))
        aims[rows] = torch.where(beaten, reached, ranked[rows, rank])
        rows = rows[~beaten]
    result = AttackResult(x_adv, forward, backward)
    return Outcome(result, verify(model, x, y, threat, result, aims))


def _wrong_classes(model: Classifier, x: Tensor, y: Tensor, rejected: int | None, count: int | None) -> Tensor:
    """Return the classes to aim at, likeliest first: int64 (B, T)."""
    logits = model.logits(x)
    classes = logits.shape[1] if len(x) else model.classes(x)
    if rejected is not None and not 0 <= rejected < classes:
        raise InvalidValue(
            f"rejected={rejected} was given",
            f"0 to {classes - 1} is allowed for a model of {classes} outputs",
            f"Say rejected={classes - 1} if the last output means 'no answer'.",
        )
    there = classes - 1 - (rejected is not None)
    if there < 1 or (count is not None and count < 1):
        raise InvalidValue(
            f"count={count} classes were asked for, of a model of {classes} outputs",
            "one wrong class or more is allowed",
            "Leave count out to try all.",
        )
    if not len(x):
        return y.new_zeros(0, 1)
    logits = logits.scatter(1, y[:, None], -torch.inf)
    if rejected is not None:
        logits[:, rejected] = -torch.inf
    # A label is never "rejected", so each row holds as many classes to aim at.
    return logits.argsort(dim=1, descending=True, stable=True)[:, : min(there, count or there)]


def match_logits(model: Classifier, guides: Tensor) -> MatchLogits:
    """Return the objective that draws each sample's logits to those of its guide.

    Args:
        model: the classifier to be attacked.
        guides: (B, *S), one input for each sample, usually a clean one of the class to be reached.
    """
    return MatchLogits(model.logits(guides))


def match_features(tapped: Classifier, guides: Tensor) -> MatchFeatures:
    """Return the objective that draws each sample's activations to those of its guide.

    Args:
        tapped: what :func:`robustscope.models.features.tap` returns; the attack must get the same.
        guides: (B, *S), one input for each sample.

    Raises:
        InvalidValue: if the model carries no activations.
    """
    if not isinstance(tapped.module, Tapped):
        raise InvalidValue(
            f"a classifier around {type(tapped.module).__name__} was given",
            "one that carries the activations of a layer is allowed",
            "Write tap(model, layer) first, and attack what it returns.",
        )
    classes = replace(tapped.module._door).logits(guides[:1]).shape[1]
    return MatchFeatures(activations(tapped.logits(guides), classes), classes)
