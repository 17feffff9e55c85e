"""CLEVER: the margin over an extrapolated local Lipschitz constant."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import Estimate, ThreatModel
from robustscope.estimates.cards import register
from robustscope.estimates.extrapolation import ask, check_counts, conclude, margins
from robustscope.estimates.points import batch_maxima
from robustscope.geometry.balls import dual_length
from robustscope.models.classifier import Classifier
from robustscope.models.derivatives import reduced_jacobian

BIBTEX = """@inproceedings{weng2018evaluating,
  title = {Evaluating the Robustness of Neural Networks: An Extreme Value Theory Approach},
  author = {Weng, Tsui-Wei and Zhang, Huan and Chen, Pin-Yu and Yi, Jinfeng and Su, Dong and Gao, Yupeng and Hsieh, Cho-Jui and Daniel, Luca},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""


@register(
    "clever",
    version=1,
    source="Weng et al., 2018, arXiv:1801.10578, Algorithm 1 and 2",
    bibtex=BIBTEX,
    quick={"batches": 8, "points": 12},
    cost=lambda p, classes: (
        1 + p["batches"] * p["points"],
        p["batches"] * p["points"] * min(p["rivals"] or classes, classes - 1),
    ),
)
def clever(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    batches: int = 100,
    points: int = 100,
    rivals: int | None = None,
    shape_penalty: float = 0.01,
) -> Estimate:
    """Estimate the radius as min over j of g_j(x) / L_j, with L_j extrapolated from sampled gradients.

    g_j = Z_y - Z_j is the margin to class j and L_j the largest length of its gradient in the ball, in the dual norm. The
    largest lengths over batches of points follow, in the limit, a reverse Weibull distribution whose location is L_j. No
    estimate exceeds the sampling radius. Points are shared by the classes, so that one forward row serves them all.

    An estimate is no bound: it may lie above the true radius, and does where gradients are masked. Behind a
    transformation without a gradient, `robustscope.models.defended.defend` with its declared approximation gives what
    the literature calls BPDA-CLEVER.

    Args:
        model: the classifier.
        x: (B, *S), inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm and bounds; its finite radius is the radius of sampling and the largest estimate.
        draws: random numbers.
        targets: int64 (B,), the class to reach; None takes the smallest estimate over the other classes.
        batches: number of maxima that are fitted, >= 3.
        points: number of points behind each maximum, >= 1.
        rivals: how many other classes to consider, those of the largest logits; None means all.
        shape_penalty: the fit maximises the log-likelihood minus this times the squared shape, >= 0.

    Returns:
        The estimates with the figures of their fits; 0 for samples that are misclassified.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Example:
        >>> from robustscope.data.problems import linear_binary
        >>> p = linear_binary("l2", n=3)
        >>> found = clever(Classifier(p.module), p.x, p.y, ThreatModel("l2", 1.0), draws=Draws(0, (0, 1, 2)), batches=5)
        >>> [round(r, 6) for r in found.radius.tolist()], found.warnings[0]
        ([0.2, 0.2, 0.2], ('constant',))

    Source: Weng, Zhang, Chen, Yi, Su, Gao, Hsieh, Daniel 2018, arXiv:1801.10578, Theorem 3.2, Algorithms 1 and 2; for
        transformations Weng et al. 2018, arXiv:1810.08640, Sec. III.

    Departures: 100 batches of 100 points instead of 500 of 1024, since the location hardly moves with more. Points are
        uniform in the ball of the norm that is asked for, as in the paper; the authors' code draws them in an l2 ball for
        every norm unless told otherwise, at a uniform radius, and its l1 points lie on the ball's surface. As there,
        points are clipped to the bounds. The fit looks at every maximum of the likelihood over the location instead of
        starting from seven shapes, with the code's penalty of 0.01 shape^2 (0 is the plain maximum likelihood of the
        paper), without which samples that look exponential have no finite location. Equal maxima are not fitted: the
        constant is exact. The cap at the sampling radius is the paper's; the authors' code has none. The class estimated
        for is the true one, and a misclassified sample has radius 0.
    """
    check_counts(batches, points, shape_penalty)
    question = ask(model, x, y, targets, rivals)
    rows, count = question.rows, question.rivals.shape[1]
    own = y[rows]

    def measure(at: Tensor, owners: Tensor) -> Tensor:
        scores = margins(own, question.rivals, owners)
        return reduced_jacobian(model, scores, at, lambda gradient: dual_length(threat.norm, gradient))

    if len(rows):
        part = threat.select(rows)
        maxima, shares = batch_maxima(x[rows], part, draws.select(rows), batches, points, measure)
    else:
        maxima, shares = question.margin.new_zeros(0, count, batches), question.margin.new_zeros(0, count)
    sent = batches * points
    return conclude(
        question,
        threat,
        x,
        maxima,
        shares,
        shape_penalty,
        lambda location: _ratio(question.margin, location),
        (1 + sent, sent * count),
    )


def _ratio(margin: Tensor, location: Tensor) -> Tensor:
    """Return margin / location; infinite where no gradient was seen, 0 on a tie."""
    ratio = margin / location.where(location > 0, 1.0)
    return torch.where(location > 0, ratio, torch.where(margin > 0, torch.inf, 0.0))
