"""Line search: how far to go along the directions of quick attacks until the class changes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin_loss
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.walks import halve

BIBTEX = """@inproceedings{rozsa2016accuracy,
  title = {Are Accuracy and Robustness Correlated?},
  author = {Rozsa, Andras and G{\\"u}nther, Manuel and Boult, Terrance E.},
  booktitle = {IEEE International Conference on Machine Learning and Applications},
  year = {2016}
}"""
WAYS = {
    "sign": "signs of the loss gradient (FGS)",
    "value": "the loss gradient itself (FGV)",
    "hot_cold": "the gradient of the runner-up's logit less the true one (hot/cold)",
}
COLUMNS = {
    f"{way}_{norm}": f"{norm} length of the smallest step to an error along {words}, 0 for errors"
    for way, words in WAYS.items()
    for norm in ("linf", "l2")
}


@register(
    "line_search",
    version=1,
    source="Rozsa, Gunther, Boult, 2016, arXiv:1610.04563, Sec. III",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust=dict.fromkeys(COLUMNS, "higher"),
    gaps=dict.fromkeys(COLUMNS, "no error on the grid of steps, or a gradient of zero"),
    invariant={name: ("scale", "shift") if name.startswith("hot_cold") else ("shift",) for name in COLUMNS},
    quick={"points": 16, "halvings": 4},
    brief={"points": 12, "halvings": 5},
)
def line_search(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    points: int = 64,
    halvings: int = 10,
) -> Findings:
    """Find the smallest step along each of three directions behind which the class is another.

    Steps grow by even parts of the width of the bounds; the first that is an error and the one before are halved. Inputs
    stay inside the bounds, and lengths are of what was really added. A direction that is poor for a network makes it look
    robust: this measures how networks fare under one quick attack, not robustness.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: not used but for its bounds; the largest step is their width.
        draws: unused; nothing is random.
        points: steps of the grid, >= 1.
        halvings: of the last one, >= 0.

    Returns:
        Six columns; for each sample 2 backward and at most 2 + 3 * (``points`` + ``halvings``) forward rows.

    Raises:
        InvalidValue: for a grid without steps.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Rozsa, Gunther & Boult 2016, arXiv:1610.04563, Sec. III.

    Departures: inputs are not rounded to 8 bits, and the perceptual measure PASS is left out; the loss gradient is taken
        without its factor 1 - p, the doubt of the network, which leaves its direction and keeps it from vanishing.
    """
    if points < 1 or halvings < 0:
        raise InvalidValue(
            f"points={points} and halvings={halvings} were given",
            "points >= 1 and halvings >= 0 are allowed",
            "Leave them out for the defaults.",
        )
    if not len(x):
        return Findings(dict.fromkeys(COLUMNS, x.new_empty(0)))

    def against_all(logits: Tensor, rows: Tensor) -> Tensor:
        own = y[rows, None]
        return logits.scatter(1, own, -torch.inf).logsumexp(1) - logits.gather(1, own)[:, 0]

    def against_one(logits: Tensor, rows: Tensor) -> Tensor:
        return margin_loss(logits, y[rows])

    _, loss, logits = model.gradient(against_all, x)
    _, lead, _ = model.gradient(against_one, x)
    wrong = is_adversarial(logits, y)
    columns = {}
    for name, way in (("sign", loss.sign()), ("value", _longest_one(loss)), ("hot_cold", _longest_one(lead))):
        ray = _Ray(model, x, y, way)
        step = ray.shortest(wrong, points, halvings)
        for norm in ("linf", "l2"):
            length = balls.distance(norm, x, ray.at(step.nan_to_num(0.0), slice(None))).to(x.dtype)
            columns[f"{name}_{norm}"] = torch.where(step.isnan(), torch.nan, length)
    return Findings(columns)


def _longest_one(gradient: Tensor) -> Tensor:
    """Return each gradient with 1 as its largest magnitude; zero where it is zero."""
    largest = gradient.flatten(1).abs().amax(1)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return gradient / scale.reshape(-1, *([1] * (gradient.dim() - 1)))


class _Ray:
    """Ways from inputs, cut off at the bounds.

    Args:
        model: the classifier.
        x: (B, *S), where they begin.
        y: int64 (B,).
        way: (B, *S), directions of linf length 1.
    """

    def __init__(self, model: Classifier, x: Tensor, y: Tensor, way: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.way = way * (model.bounds.upper - model.bounds.lower)

    def at(self, step: Tensor, rows: Tensor | slice) -> Tensor:
        """Return the inputs after steps (b,), 0 to 1, of some rows: (b, *S)."""
        far = step.reshape(-1, *([1] * (self.x.dim() - 1))) * self.way[rows]
        return (self.x[rows] + far).clamp(*self.model.bounds)

    def shortest(self, wrong: Tensor, points: int, halvings: int) -> Tensor:
        """Return the smallest step found to an error: (B,), 0 where there is one to begin with, NaN where there is none."""
        found = torch.where(wrong, 0.0, torch.nan).to(self.x.dtype)
        rows = (~wrong).nonzero()[:, 0]
        for point in range(1, points + 1):
            if not len(rows):
                break
            step = self.x.new_full((len(rows),), point / points)
            gone = is_adversarial(self.model.logits(self.at(step, rows)), self.y[rows])
            found[rows[gone]] = point / points
            rows = rows[~gone]
        reached = (found > 0).nonzero()[:, 0]
        if len(reached):
            high = found[reached]
            low = high - 1 / points
            found[reached] = halve(self.model, self.y[reached], partial(self.at, rows=reached), low, high, halvings)
        return found
