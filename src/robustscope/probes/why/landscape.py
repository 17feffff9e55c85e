"""Loss and decision surfaces in planes of the input space, and how uneven they are."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy, margin, margin_loss
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.kl_robustness import BIBTEX
from robustscope.probes.why.sparsity import spread_of
from robustscope.probes.why.walks import ascend, check_walk

Plane = Literal["gradient-random", "adversarial-random", "gradient-adversarial"]


@register(
    "landscape",
    version=1,
    source="Yu et al., 2019, arXiv:1905.04270",
    bibtex=BIBTEX,
    columns={
        "rise": "by how much the loss rises at most in the plane, in nats",
        "bend": "largest |S(d) + S(-d) - 2 S(0)| / 2 of the margin S in the plane: 0 for planes, in logits",
        "relative_bend": "the same over the standard deviation of the sample's logits",
        "errors": "part of the plane that is misclassified",
    },
    robust={"rise": "lower", "relative_bend": "lower", "errors": "lower"},
    gaps={"relative_bend": "all logits are equal"},
    invariant={
        "rise": ("shift",),
        "bend": ("shift",),
        "relative_bend": ("shift",),
        "errors": ("shift",),
    },
    quick={"points": 5, "steps": 3},
    brief={"points": 5},
)
def landscape(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    plane: Plane = "gradient-random",
    points: int = 15,
    extent: float = 2.0,
    steps: int = 10,
) -> Findings:
    """Look at loss and margin on a grid of a plane through each sample.

    The first direction is that in which the loss gradient ascends fastest, or the way to the worst point that an ascent
    finds; the second is random, or the other of these, made orthogonal to the first. Both have unit length in the norm of
    the threat model, and the axes are in units of its epsilon. The zero contour of the margin is the decision boundary.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm and radius, which set the scale of the axes.
        draws: random numbers of these samples.
        plane: "gradient-random", "adversarial-random" or "gradient-adversarial".
        points: of each side of the grid, odd, >= 3, so that its middle is the sample.
        extent: half the side of the grid, in units of epsilon, > 0.
        steps: gradients of the ascent that finds the adversarial direction, >= 1.

    Returns:
        Four columns, and the pictures "loss", "margin" and "decision" (the predicted class), (B, points, points), the
        first direction down their rows; ``points`` squared rows forward for each sample, and those of the directions.

    Raises:
        InvalidValue: for a plane, counts or an extent that are not allowed.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Yu, Qin, Liu, Zhao, Wang & Chen 2019, arXiv:1905.04270.

    Departures: the grid is not clipped to the bounds, which would bend the plane; points outside are no inputs that an
    adversary could send.
    """
    check_walk(steps, 1.0)
    if plane not in get_args(Plane) or points < 3 or points % 2 == 0 or not 0 < extent < float("inf"):
        raise InvalidValue(
            f"plane={plane!r}, points={points} and extent={extent} were given",
            f"one of {get_args(Plane)}, odd points >= 3 and an extent > 0 are allowed",
            "Leave them out for the defaults.",
        )
    first, second = _directions(model, x, y, threat, draws, plane, steps)
    reach = (threat.radius(x) * extent).reshape(-1, *([1] * (x.dim() - 1)))
    axis = torch.linspace(-1, 1, points, dtype=torch.float64).tolist()
    losses, margins, classes = [], [], []
    for a in axis:
        for b in axis:
            z = model.logits(x + reach * (a * first + b * second))
            losses.append(cross_entropy(z, y))
            margins.append(margin(z, y))
            classes.append(z.argmax(1))
    shape = (points, points, len(x))
    loss, lead, seen = (
        torch.stack(found).reshape(shape).permute(2, 0, 1).to(x.dtype) for found in (losses, margins, classes)
    )
    spread = spread_of(model.logits(x)).to(x.dtype)
    bend = (lead + lead.flip(1, 2) - 2 * lead[:, points // 2, points // 2, None, None]).abs().amax((1, 2)) / 2
    columns = {
        "rise": loss.amax((1, 2)) - loss[:, points // 2, points // 2],
        "bend": bend,
        "relative_bend": torch.where(spread > 0, bend / spread, torch.nan),
        "errors": (lead <= 0).to(x.dtype).mean((1, 2)),
    }
    ticks = extent * np.linspace(-1, 1, points)
    pictures = {"loss": loss, "margin": lead, "decision": seen}
    return Findings(columns, pictures=pictures, axes=dict.fromkeys(pictures, (ticks, ticks)))


def _directions(
    model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, plane: Plane, steps: int
) -> tuple[Tensor, Tensor]:
    """Return two orthogonal directions of unit length for each sample; what cannot be found is drawn at random."""
    ways: list[Tensor] = []
    if "gradient" in plane:
        gradient = model.gradient(lambda z, rows: cross_entropy(z, y[rows]), x)[1]
        ways.append(balls.steepest(threat.norm, gradient))
    if "adversarial" in plane:
        worst = ascend(
            model,
            x,
            threat,
            lambda z, rows: margin_loss(z, y[rows]),
            draws=draws,
            steps=steps,
            relative_step_size=0.25,
        )[1]
        ways.append(worst - x)
    noise = [draws.normal(f"direction/{number}", x) for number in range(2)]
    ways += [draw.sign() if threat.norm == "linf" else draw for draw in noise]
    first = _unit(threat, _filled(ways[0], ways[-1]))
    second = _away(ways[1], first)
    # Where both named directions are one, or the gradient is zero, a random one stands in.
    same = balls.length("l2", second) <= 1e-6 * balls.length("l2", ways[1])
    shape = (-1, *([1] * (x.dim() - 1)))
    second = torch.where(same.reshape(shape), _away(ways[-2], first), second)
    return first, _unit(threat, second)


def _away(way: Tensor, first: Tensor) -> Tensor:
    """Return the part of each direction that is orthogonal to ``first``."""
    shape = (-1, *([1] * (way.dim() - 1)))
    part = (way * first).flatten(1).sum(1) / first.flatten(1).square().sum(1)
    return way - part.reshape(shape) * first


def _filled(way: Tensor, other: Tensor) -> Tensor:
    """Return ``way``, and ``other`` where it is zero."""
    shape = (-1, *([1] * (way.dim() - 1)))
    return torch.where((balls.length("linf", way) > 0).reshape(shape), way, other)


def _unit(threat: ThreatModel, way: Tensor) -> Tensor:
    """Return directions of unit length in the norm of the threat model."""
    return way / balls.length(threat.norm, way).reshape(-1, *([1] * (way.dim() - 1)))
