"""Universal perturbations: crafting one for many samples, and the file that keeps it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import permutation
from robustscope.core.errors import BadFile, InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.models.classifier import Classifier
from robustscope.models.sources import existing_file

NORMS = ("linf", "l2", "l1")
KIND = "robustscope universal perturbation 1"


@dataclass(frozen=True)
class UniversalPerturbation:
    """One perturbation for all inputs.

    Args:
        delta: (*S), inside the ball; an example is the clipped sum of input and delta.
        norm, epsilon: the ball.
        fooling_rate: share of the crafting samples whose predicted class it changes.
        success_rate: share of the correctly classified crafting samples that it makes misclassified; 0 if there are none.
        facts: where it comes from: number of samples, hyper-parameters, rows, and what the caller adds.
    """

    delta: Tensor
    norm: str
    epsilon: float
    fooling_rate: float
    success_rate: float
    facts: dict[str, Any] = field(default_factory=dict)


def craft_universal(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes: int = 10,
    batch_size: int = 64,
    relative_step_size: float = 0.1,
    loss_limit: float = 9.0,
    advance: Callable[[int], object] | None = None,
) -> UniversalPerturbation:
    """Ascend the mean of a clipped loss over many samples in one perturbation that they share.

    delta <- P(delta + a * epsilon * s(mean gradient)) over random batches, with s the steepest direction of the norm and P
    the projection on the ball. The loss of a sample is min(cross-entropy, ``loss_limit``), so that those already fooled do
    not drown the others. The step size falls linearly to a tenth of its first value. After each pass all samples are
    judged, and the delta with the most successes is kept.

    Args:
        model: classifier to be fooled.
        x: (B, *S), crafting samples; not those on which the perturbation is judged later.
        y: int64 (B,), true classes.
        threat: linf, l2 or l1; an infinite radius means the whole box.
        seed: decides the batches.
        passes: times that every sample is used, >= 1.
        batch_size: samples that share a step, >= 1. Unlike everything else here, crafting couples samples on purpose.
        relative_step_size: first step size as a fraction of epsilon, > 0.
        loss_limit: where the loss of a sample is cut off, > 0.
        advance: called with the number of samples after each batch.

    Raises:
        InvalidValue: for no samples, l0, and hyper-parameters out of range.

    Source: Shafahi et al. 2020, arXiv:1811.11304, Algorithm 2 and Eq. 5 (clipped loss, after Moosavi-Dezfooli et al. 2017,
        arXiv:1610.08401, who chain one DeepFool run for each sample). Chosen because its cost is one gradient for each sample
        and pass, any norm with a steepest step will do, and the authors find it at least as strong.

    Departures: the best delta over the passes is returned instead of the last; the step size falls; the gradient of values
        that the box has clipped is dropped.
    """
    check_positive(passes=passes, batch_size=batch_size, relative_step_size=relative_step_size, loss_limit=loss_limit)
    model.check_inputs(x, y)
    if not len(x) or threat.norm not in NORMS:
        raise InvalidValue(
            f"{len(x)} samples and norm={threat.norm!r} were given",
            f"one sample or more and one of {NORMS} are allowed",
            "A universal perturbation is crafted on many samples, usually hundreds.",
        )
    box = balls.whole_box(threat, x)
    assert isinstance(box, ThreatModel)
    epsilon = box.common_epsilon
    radius, centre = x.new_full((1,), epsilon), torch.zeros_like(x[:1])
    width = threat.bounds.upper - threat.bounds.lower
    delta, best = centre, (centre, -1.0)
    before = (model.ledger.forward, model.ledger.backward)
    clean = model.logits(x).argmax(1)
    steps, step = passes * math.ceil(len(x) / batch_size), 0
    for turn in range(passes):
        order = torch.tensor(permutation(seed, f"universal/{turn}", len(x)), device=x.device)
        for rows in order.split(batch_size):
            gradient = _mean_gradient(model, x[rows], y[rows], delta, loss_limit)
            size = relative_step_size * epsilon * (1 - 0.9 * step / max(steps - 1, 1))
            count = max(1, gradient[0].numel() // 100)
            moved = delta + size * balls.steepest(threat.norm, gradient, count=count)
            delta = balls.project_within(threat.norm, Bounds(-width, width), radius, centre, moved)
            step += 1
            if advance is not None:
                advance(len(rows))
        wrong = float((_predict(model, x, delta) != y).double().mean())
        best = (delta, wrong) if wrong > best[1] else best
    fooled = _predict(model, x, best[0])
    correct = clean == y
    facts: dict[str, Any] = {
        "n": len(x),
        "seed": seed,
        "passes": passes,
        "batch_size": batch_size,
        "loss_limit": loss_limit,
    }
    facts |= {"relative_step_size": relative_step_size, "bounds": list(threat.bounds)}
    facts |= {"forward": model.ledger.forward - before[0], "backward": model.ledger.backward - before[1]}
    return UniversalPerturbation(
        best[0][0],
        threat.norm,
        epsilon,
        float((fooled != clean).double().mean()),
        float((fooled != y)[correct].double().sum()) / max(int(correct.sum()), 1),
        facts,
    )


def _mean_gradient(model: Classifier, x: Tensor, y: Tensor, delta: Tensor, limit: float) -> Tensor:
    """Return the gradient of the mean clipped loss by delta: (1, *S)."""

    def score(logits: Tensor, rows: Tensor) -> Tensor:
        return cross_entropy(logits, y[rows]).clamp(max=limit)

    moved = x + delta
    _, gradients, _ = model.gradient(score, moved.clamp(*model.bounds))
    free = (moved >= model.bounds.lower) & (moved <= model.bounds.upper)
    return (gradients * free).mean(0, keepdim=True)


def _predict(model: Classifier, x: Tensor, delta: Tensor) -> Tensor:
    return model.logits((x + delta).clamp(*model.bounds)).argmax(1)


def universal_bytes(found: UniversalPerturbation) -> bytes:
    """Return the content of the safetensors file that keeps a perturbation."""
    facts = {"kind": KIND, "norm": found.norm, "epsilon": repr(found.epsilon)}
    facts |= {"fooling_rate": repr(found.fooling_rate), "success_rate": repr(found.success_rate)}
    return save({"delta": found.delta.contiguous().cpu()}, {**facts, "facts": json.dumps(found.facts)})


def load_universal(path: str | Path) -> UniversalPerturbation:
    """Read a perturbation back.

    Raises:
        MissingFile: if there is no such file.
        BadFile: if it is not one that ``robustscope universal`` wrote.
    """
    file = existing_file(path)
    try:
        with safe_open(file, framework="pt") as handle:
            facts, delta = handle.metadata() or {}, handle.get_tensor("delta")
        if facts.get("kind") != KIND:
            raise ValueError(f"its kind is {facts.get('kind')!r}")
        rates = [float(facts[name]) for name in ("epsilon", "fooling_rate", "success_rate")]
        return UniversalPerturbation(delta, facts["norm"], *rates, json.loads(facts["facts"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadFile(
            f"{str(path)!r} holds no universal perturbation ({error})",
            "a file that `robustscope universal` wrote is allowed",
            "Craft one: robustscope universal MODEL --data DATA --threat linf:8/255 --out delta.safetensors.",
        ) from error


def digest(path: str | Path) -> str:
    """Return the sha-256 of a file."""
    return hashlib.sha256(existing_file(path).read_bytes()).hexdigest()
