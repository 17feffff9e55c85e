"""DeepFool: Newton steps to the nearest linearised decision boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search, columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls, planes
from robustscope.models.classifier import Classifier, Scores

BIBTEX = """@inproceedings{moosavi2016deepfool,
  title = {{DeepFool}: A Simple and Accurate Method to Fool Deep Neural Networks},
  author = {Moosavi-Dezfooli, Seyed-Mohsen and Fawzi, Alhussein and Frossard, Pascal},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}"""

BEYOND = 1e-4

BLIND = 0.1
"""Most that a step towards a plane out of reach may change a value, in the root mean square for l2, of the bounds' width."""


@register(
    "deepfool",
    version=4,
    source="Moosavi-Dezfooli, Fawzi, Frossard, 2016, arXiv:1511.04599, Algorithm 2",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l2", "linf"),
    cost=lambda p: (2 * p["steps"], p["steps"] * (p["num_classes"] - 1)),
)
def deepfool(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 50,
    overshoot: float = 0.02,
    num_classes: int = 10,
) -> AttackResult:
    """Step to the nearest linearised decision boundary until the class changes, then a little beyond.

    At x_i each rival class k has the plane f_k + <w_k, d> = 0, with f_k = Z_k - Z_y and w_k its gradient. The shortest
    step r_i to the nearest plane is added to the total r, and x_{i+1} = clip(x + (1 + overshoot) r).

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: unused; the attack is deterministic.
        targets: unused; the attack is untargeted.
        steps: most steps of a sample, >= 1.
        overshoot: share by which the total perturbation is lengthened, >= 0.
        num_classes: number of classes considered, the true one and the largest other logits of ``x``, >= 2.

    Returns:
        The first adversarial iterate of each sample, projected on the threat set where it lies outside; ``x`` itself
        where ``steps`` did not suffice.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Moosavi-Dezfooli, Fawzi, Frossard 2016, arXiv:1511.04599, Algorithm 2 and Sec. 3.3.

    Departures: steps are the shortest *inside the bounds* and the nearest class is chosen by their length, where the
        authors' code ignores the bounds (and ports of it clip afterwards, which may undo the attack); without a bound
        in the way both are the same. Where the bounds let no step reach a plane, it goes towards the corner of the bounds
        that comes nearest to it, but by a tenth of their width at most: the plane tells little of so far away, and without
        this limit the median distance on ``mnist_lirpa_cnn_small`` is 1.0 in linf, 20 in l2. As in the authors' code every step reaches 1e-4 (times the width of the bounds)
        beyond the plane, and the overshoot lengthens the total, not each step.
    """
    check_positive(steps=steps)
    if not 0 <= overshoot < float("inf") or num_classes < 2:
        raise InvalidValue(
            f"overshoot={overshoot} and num_classes={num_classes} were given",
            "overshoot >= 0 and num_classes >= 2 are allowed",
            "The paper uses overshoot=0.02 and num_classes=10.",
        )
    search = Search(model, x, y, threat)
    rows, centre, current, total = search.rows(), x, x, torch.zeros_like(x)
    if not len(rows):
        return search.result()
    rivals = y.new_empty(len(x), min(num_classes, model.classes(x)) - 1)

    def first(logits: Tensor, part: Tensor) -> Tensor:
        rivals[part] = search.rivals(logits.detach(), part, num_classes - 1)
        return _differences(y, rivals)(logits, part)

    for step in range(steps):
        if not len(rows):
            break
        differences = _differences(y[rows], rivals) if step else first
        values, normals, solved = search.jacobian(rows, current, differences)
        total = total + _nearest_step(threat, current, values, normals)
        total = (centre + total).clamp_(*threat.bounds).sub_(centre)
        current = torch.add(centre, total, alpha=1 + overshoot).clamp_(*threat.bounds)
        if solved.any():  # the inputs themselves
            keep = (~solved).nonzero()[:, 0]
            rows, rivals, centre = rows[keep], rivals[keep], centre[keep]
            current, total = current[keep], total[keep]
            if not len(rows):
                break
        # One forward row tells whether the K - 1 backward rows of the next step are needed.
        _, solved = search.logits(rows, current)
        if solved.any():
            keep = (~solved).nonzero()[:, 0]
            rows, rivals, centre = rows[keep], rivals[keep], centre[keep]
            current, total = current[keep], total[keep]
    return search.result()


def _differences(y: Tensor, rivals: Tensor) -> Scores:
    """Return the scores Z_k - Z_y of the rival classes k."""

    def scores(logits: Tensor, part: Tensor) -> Tensor:
        return logits.gather(1, rivals[part]) - logits.gather(1, y[part][:, None])

    return scores


def _nearest_step(threat: ThreatModel, current: Tensor, values: Tensor, normals: Tensor) -> Tensor:
    """Return the shortest of the steps to the planes values + <normals, d> = 0, a little beyond it: (b, *S)."""
    width = threat.bounds.upper - threat.bounds.lower
    slope = planes.slopes(threat.norm, normals)
    gains = values.abs() + BEYOND * width * slope
    choice, steps = planes.nearest(threat.norm, threat.bounds, current, normals, gains, slope=slope)
    most = BLIND * width * (1.0 if threat.norm == "linf" else math.sqrt(math.prod(current.shape[1:])))
    far = balls.length(threat.norm, steps)
    rows = (far > most).nonzero()[:, 0]
    if len(rows):
        reached = (normals[rows, choice[rows]] * steps[rows]).flatten(1).sum(1)
        rows = rows[reached < gains[rows, choice[rows]] * (1 - BEYOND)]
        steps[rows] *= columns(most / far[rows], steps)
    return steps
