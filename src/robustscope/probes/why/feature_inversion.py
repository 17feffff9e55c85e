"""Robust and non-robust features: data sets made of what a network sees, and pictures that it cannot tell apart.

A data set whose inputs carry only the features of a robust network trains robust networks; one whose inputs were moved a
little towards a random label trains accurate ones, though people see other labels. Train on them to see for yourself:
``benchmarks/features.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.objectives import MatchFeatures, activations
from robustscope.geometry.rules import is_adversarial_label
from robustscope.models.classifier import Classifier
from robustscope.models.features import penultimate, tap
from robustscope.probes.why._sweeps import check_count
from robustscope.probes.why.cards import Findings, register

ILYAS = """@inproceedings{ilyas2019adversarial,
  title = {Adversarial Examples Are Not Bugs, They Are Features},
  author = {Ilyas, Andrew and Santurkar, Shibani and Tsipras, Dimitris and Engstrom, Logan and Tran, Brandon and
            Madry, Aleksander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


@dataclass(frozen=True)
class FeatureSet:
    """Inputs made from others to carry some features and no others, with the labels to train on.

    Args:
        x: (B, *S), inside the bounds.
        y: int64 (B,), labels to train on.
        source_y: int64 (B,), true classes of the inputs they were made from.
        l2: (B,), how far each is from where it started.
        reached: bool (B,), whether the network gives it the label ``y``.
        reached_8bit: the same after rounding to 8 bits; store data sets as floating point where it is less.
        before, after: (B,), l2 distances of the features from those aimed at; None where none were.
    """

    x: Tensor
    y: Tensor
    source_y: Tensor
    l2: Tensor
    reached: Tensor
    reached_8bit: Tensor
    before: Tensor | None = None
    after: Tensor | None = None

    def report(self) -> dict[str, float]:
        """Return the means over all inputs: shares reached, sizes, feature distances, and labels that are the true ones."""
        found = {
            "n": float(len(self.x)),
            "reached": float(self.reached.double().mean()),
            "reached_8bit": float(self.reached_8bit.double().mean()),
            "l2": float(self.l2.double().mean()),
            "label_is_true": float((self.y == self.source_y).double().mean()),
        }
        if self.before is not None and self.after is not None:
            found |= {"features_before": float(self.before.mean()), "features_after": float(self.after.mean())}
        return found


def inverted_set(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    pool: Tensor,
    *,
    draws: Draws,
    layer: str | None = None,
    steps: int = 1000,
    step_size: float = 0.1,
) -> FeatureSet:
    """Make inputs that have the features of ``x`` to a network, and start from other inputs: D_R, or D_NR.

    For a robust network the result carries robust features alone (D_R), for a standard one (mostly) non-robust ones
    (D_NR). The layer must be narrower than the input: where features tell inputs apart completely, the result is ``x``.

    Args:
        model: network whose features count.
        x: (B, *S), inputs.
        y: int64 (B,), their classes, which the new inputs keep.
        pool: (m, *S), inputs to start from, one at random for each, whatever its class.
        draws: of the starts.
        layer: whose activations are the features; None takes those before the last linear layer.
        steps, step_size: as :func:`invert`.

    Returns:
        The new data set; ``reached`` says whether the network gives each input its label.

    Raises:
        InvalidValue: for an empty pool, or no steps.

    Source: Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.1 and Algorithm 1.
    """
    if not len(pool):
        raise InvalidValue("an empty pool was given", "inputs to start from are needed", "Give the training inputs.")
    starts = pool[draws.integers("start", 1, 0, len(pool))[:, 0].to(pool.device)]
    made, before, after = invert(model, x, starts, layer=layer, steps=steps, step_size=step_size)
    return _judged(model, FeatureSet(made, y, y, balls.distance("l2", starts, made), y, y, before, after))


def targeted_set(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    draws: Draws,
    label: Literal["random", "next"] = "random",
    epsilon: float = 0.5,
    steps: int = 100,
    step_size: float = 0.1,
) -> FeatureSet:
    """Move inputs a little towards a label, and call them by it: D_rand, or D_det.

    With "random" any class is as likely, the true one included, so that only what the step added tells the label. With
    "next" it is the true class plus one, against which the features that were there point.

    Args:
        model: a standard network.
        x: (B, *S), inside its bounds.
        y: int64 (B,), true classes.
        draws: of the labels.
        label: "random" (D_rand) or "next" (D_det).
        epsilon: l2 radius, in the units of the bounds.
        steps: normalised gradient steps, projected on ball and box.
        step_size: l2 length of a step.

    Returns:
        The new data set; ``reached`` says whether the network takes each input for its new label.

    Raises:
        InvalidValue: for no steps, or another kind of label.

    Source: Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.2.
    """
    check_count("steps", steps)
    classes = model.classes(x)
    if label == "random":
        targets = draws.integers("label", 1, 0, classes)[:, 0].to(y.device)
    elif label == "next":
        targets = (y + 1) % classes
    else:
        raise InvalidValue(f"label={label!r} was given", "'random' or 'next' is allowed", "Choose one of them.")
    threat = ThreatModel("l2", epsilon, model.bounds)

    def ascent(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.log_softmax(1).gather(1, targets[rows, None])[:, 0]

    made = x
    for _ in range(steps):
        _, gradients, _ = model.gradient(ascent, made)
        made = balls.project(threat, x, made + step_size * balls.steepest("l2", gradients))
    return _judged(model, FeatureSet(made, targets, y, balls.distance("l2", x, made), y, y))


def _judged(model: Classifier, made: FeatureSet) -> FeatureSet:
    """Return a data set with the decisions of the network about it."""
    lower, upper = model.bounds
    stored = ((made.x - lower) / (upper - lower) * 255).round() / 255 * (upper - lower) + lower
    reached, rounded = (is_adversarial_label(model.decisions(z), made.source_y, made.y) for z in (made.x, stored))
    return FeatureSet(made.x, made.y, made.source_y, made.l2, reached, rounded, made.before, made.after)


def invert(
    model: Classifier,
    x: Tensor,
    starts: Tensor,
    *,
    layer: str | None = None,
    steps: int = 1000,
    step_size: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk from other inputs to ones whose features are those of ``x``.

    Gradient steps of one l2 length on the squared distance of the features, clipped to the bounds; the best point counts.

    Args:
        model: the network.
        x: (B, *S), whose features are aimed at.
        starts: (B, *S), where to start.
        layer: whose activations are the features; None takes those before the last linear layer.
        steps: >= 1.
        step_size: l2 length of a step, in the units of the bounds, > 0.

    Returns:
        the inputs found (B, *S); the l2 distances of the features at the start (B,), and at the end (B,).

    Raises:
        InvalidValue: for no steps, a step size of 0, or starts of another shape.

    Source: Ilyas et al., 2019, arXiv:1905.02175, Algorithm 1.

    Departures: the squared distance is descended, for the distance itself has no gradient at 0; and since steps of one
        length cannot settle, the best of all points is returned, not the last.
    """
    check_count("steps", steps)
    if not step_size > 0 or starts.shape != x.shape:
        raise InvalidValue(
            f"step_size={step_size} and starts of shape {tuple(starts.shape)} were given for {tuple(x.shape)}",
            "a step > 0 and one start for each input are allowed",
            "The source takes 1,000 steps of 0.1.",
        )
    tapped, classes = tap(model, penultimate(model) if layer is None else layer), model.classes(x)
    wanted = activations(tapped.logits(x), classes)
    objective = MatchFeatures(wanted, classes)

    def closer(outputs: Tensor, rows: Tensor) -> Tensor:
        return objective.select(rows)(outputs, rows)

    found, top, first = _climb(tapped, closer, starts, steps, step_size)
    model.ledger.forward += tapped.ledger.forward
    model.ledger.backward += tapped.ledger.backward
    before, after = ((-2 * value).clamp(min=0).sqrt() for value in (first, top))
    return found, before, after


def _climb(
    model: Classifier, score: Callable[[Tensor, Tensor], Tensor], starts: Tensor, steps: int, step_size: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best points on the way up a score, their scores (B,) and those of the starts (B,)."""
    point = best = starts
    top = first = starts.new_full((len(starts),), -torch.inf)
    shape = (-1, *([1] * (starts.dim() - 1)))
    for step in range(steps + 1):
        value, gradients, _ = model.gradient(score, point)
        first = value if not step else first
        best, top = torch.where((value > top).view(shape), point, best), torch.maximum(value, top)
        point = balls.clip_to_bounds(point + step_size * balls.steepest("l2", gradients), model.bounds)
    return best, top, first


@register(
    "feature_inversion",
    version=1,
    source="Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.1; Engstrom et al., 2019, arXiv:1906.00945, Sec. 4.1",
    bibtex=ILYAS,
    columns={
        "feature_gap": "l2 distance of the features at the end of the walk, as a share of that at its start; how far the walk "
        "came",
        "inversion_distance": "l2 distance of the input found from the one whose features it has, as a share of that of the "
        "start",
    },
    robust={"inversion_distance": "lower"},
    gaps={"feature_gap": "the start has the features of the input already"},
    quick={"steps": 20},
    brief={"steps": 20},
)
def feature_inversion(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    layer: str | None = None,
    steps: int = 200,
    step_size: float = 0.1,
) -> Findings:
    """Look for inputs that a network cannot tell from the given ones, starting from noise: how alike are they to us?

    Features of a robust network change only where the input changes much, so that what has the same ones looks alike.

    Args:
        model: the network.
        x: (B, *S), inside the bounds.
        y: unused.
        threat: unused.
        draws: of the starts, uniform noise in the bounds.
        layer: whose activations are the features; None takes those before the last linear layer. It should be narrower
            than the input, else they determine it.
        steps, step_size: of the walk, as :func:`invert`.

    Returns:
        The columns ``feature_gap`` and ``inversion_distance``; the pictures ``inverted`` (B, *S). ``steps`` + 2 rows forward
        and ``steps`` + 1 backward for each sample.

    Raises:
        InvalidValue: for no steps, or a network without a linear layer and no ``layer``.
        UnknownName: for a layer that there is not.

    Source: Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.1; Engstrom et al., 2019, arXiv:1906.00945, Sec. 4.1.
    """
    lower, upper = model.bounds
    starts = draws.uniform("start", x, lower, upper)
    found, before, after = invert(model, x, starts, layer=layer, steps=steps, step_size=step_size)
    near, far = balls.distance("l2", x, found), balls.distance("l2", x, starts)
    columns = {"feature_gap": after / before, "inversion_distance": (near / far).to(x.dtype)}
    axes = tuple(np.arange(side) for side in x.shape[1:])
    return Findings(columns, {}, {"inverted": found}, {"inverted": axes})
