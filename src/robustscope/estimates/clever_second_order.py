"""CLEVER with curvature: the margin over slope and extrapolated curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Estimate, ThreatModel
from robustscope.estimates.cards import register
from robustscope.estimates.extrapolation import ask, check_counts, conclude, margins
from robustscope.estimates.points import batch_maxima
from robustscope.geometry.balls import dual_length
from robustscope.models.classifier import Classifier, Scores
from robustscope.models.derivatives import Product, reduced_jacobian, with_hessian

BIBTEX = """@inproceedings{weng2018extensions,
  title = {On Extensions of {CLEVER}: A Neural Network Robustness Evaluation Algorithm},
  author = {Weng, Tsui-Wei and Zhang, Huan and Chen, Pin-Yu and Lozano, Aurelie and Hsieh, Cho-Jui and Daniel, Luca},
  booktitle = {IEEE Global Conference on Signal and Information Processing},
  year = {2018}
}"""


@register(
    "clever_second_order",
    version=1,
    source="Weng et al., 2018, arXiv:1810.08640, Sec. II",
    bibtex=BIBTEX,
    norms=("l2",),
    smooth=True,
    quick={"batches": 6, "points": 5, "steps": 6},
    cost=lambda p, classes: (
        2 + p["batches"] * p["points"] * min(p["rivals"] or classes, classes - 1),
        (1 + p["batches"] * p["points"] * (1 + p["steps"])) * min(p["rivals"] or classes, classes - 1),
    ),
)
def clever_second_order(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    batches: int = 50,
    points: int = 20,
    steps: int = 10,
    rivals: int | None = None,
    shape_penalty: float = 0.01,
) -> Estimate:
    """Estimate the radius at which slope and curvature together could use up the margin.

    With s = ||grad g(x)|| and M the most negative curvature of g in the ball, g(x + d) >= g(x) - s ||d|| - M ||d||^2 / 2, so
    the margin lasts to r = 2 g / (s + sqrt(s^2 + 2 M g)). M is the location of a reverse Weibull distribution fitted to
    the largest -lambda_min(Hess g) over batches of points, 0 where that is negative; M = 0 leaves g / s.

    An estimate is no bound: it may lie above the true radius, and does where gradients are masked.

    Args:
        model: the classifier; its logits must be twice differentiable. Networks with ReLU are refused: their Hessian is
            zero wherever it exists, and the estimate would be g / s alone.
        x: (B, *S), inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2 and bounds; its finite radius is the radius of sampling and the largest estimate.
        draws: random numbers.
        targets: int64 (B,), the class to reach; None takes the smallest estimate over the other classes.
        batches: number of maxima that are fitted, >= 3.
        points: number of points behind each maximum, >= 1.
        steps: products with the Hessian at each point, >= 1; exact from the number of input values on.
        rivals: how many other classes to consider, those of the largest logits; None means all.
        shape_penalty: the fit maximises the log-likelihood minus this times the squared shape, >= 0.

    Returns:
        The estimates; the fit's figures are of the curvature, before negative locations become 0. ``zero_share`` is 1
        where the gradient at the sample itself is exactly zero.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Example:
        >>> from robustscope.data.problems import smooth_cnn
        >>> p = smooth_cnn(n=1)
        >>> options = {"batches": 4, "points": 3, "steps": 8}
        >>> clever_second_order(Classifier(p.module), p.x, p.y, ThreatModel("l2", 1.0), draws=Draws(0, (0,)), **options).capped
        tensor([False])

    Source: Weng, Zhang, Chen, Lozano, Hsieh, Daniel 2018, arXiv:1810.08640, Theorem II.1 and Sec. II-C.

    Departures: lambda_min is the least Ritz value in the space of all iterates of the power iteration (Lanczos), which
        costs the same products, is never worse than the last iterate, and needs no second iteration with a shift. The
        number of products is fixed; the authors' code stops by a tolerance over the whole batch, so that a sample's
        result depends on its company.
    """
    check_counts(batches, points, shape_penalty)
    if steps < 1:
        raise InvalidValue(f"steps={steps} was given", "an integer >= 1 is allowed", "The default is 10.")
    question = ask(model, x, y, targets, rivals)
    rows, count = question.rows, question.rivals.shape[1]
    own = y[rows]
    products = min(steps, x[0].numel()) if len(x) else steps
    slope = shares = question.margin.new_zeros(0, count)
    maxima = question.margin.new_zeros(0, count, batches)

    def measure(at: Tensor, owners: Tensor) -> Tensor:
        """Return the most negative curvature of each margin at each point, as positive numbers: (m, C)."""
        found = []
        for column in question.rivals.split(1, 1):
            scores = margins(own, column, owners)
            found.append(_bend(model, lambda logits, part, scores=scores: scores(logits, part)[:, 0], at, products))
        return torch.stack(found, 1)

    if len(rows):
        everyone = torch.arange(len(rows), device=x.device)
        scores = margins(own, question.rivals, everyone)
        slope = reduced_jacobian(model, scores, x[rows], lambda gradient: dual_length("l2", gradient)).double()
        shares = (slope == 0).double()
        part = threat.select(rows)
        maxima, _ = batch_maxima(x[rows], part, draws.select(rows), batches, points, measure)
    sent = batches * points * count

    def radius_of(location: Tensor) -> Tensor:
        bend = location.clamp(min=0)
        low = slope + (slope.square() + 2 * bend * question.margin).sqrt()
        return torch.where(low > 0, 2 * question.margin / low.where(low > 0, 1.0), torch.inf)

    return conclude(
        question, threat, x, maxima, shares, shape_penalty, radius_of, (2 + sent, count + sent * (1 + products))
    )


def _bend(model: Classifier, score: Scores, x: Tensor, products: int) -> Tensor:
    """Return minus the least eigenvalue of the Hessian of each row's score, seen through so many products: (B,).

    Args:
        model: the classifier.
        score: ``(logits (b, K), rows (b,)) -> (b,)``.
        x: (B, *S), B >= 1.
        products: at most the number of input values.
    """
    # One direction for all points: it depends on no sample, and has a part along every eigenvector.
    start = Draws(0, (0,), "clever_second_order").normal("start", x[:1])

    def work(gradient: Tensor, product: Product) -> Tensor:
        return -_ritz_values(
            lambda v: product(v.view_as(gradient)).flatten(1), start.flatten(1), len(gradient), products
        )

    return with_hessian(model, score, x, work)[1]


def _ritz_values(product: Product, start: Tensor, count: int, products: int) -> Tensor:
    """Return the least eigenvalue of each matrix on the space of v, Hv, HHv, ...: (count,), by the Lanczos recursion.

    Args:
        product: (count, d) -> (count, d), a symmetric matrix of its own for each row.
        start: (1, d), v.
        count: number of rows.
        products: dimension of the space.
    """
    v = (start / torch.linalg.vector_norm(start)).expand(count, -1)
    basis = v.new_zeros(count, products, v.shape[1])
    matrix = v.new_zeros(count, products, products, dtype=torch.float64)
    scale = v.new_zeros(count)
    ended = torch.zeros(count, dtype=torch.bool, device=v.device)
    for k in range(products):
        basis[:, k] = v
        w = product(v)
        height = (w * v).sum(1)
        # Where the space was exhausted a diagonal entry that is a Rayleigh quotient already keeps the least one.
        matrix[:, k, k] = torch.where(ended, matrix[:, 0, 0], height.double())
        for _ in range(2):  # orthogonal to all before: rounding would bring copies of eigenvalues back
            known = basis[:, : k + 1]
            w = w - torch.einsum("bkd,bk->bd", known, torch.einsum("bkd,bd->bk", known, w))
        size = torch.linalg.vector_norm(w, dim=1)
        scale = torch.maximum(scale, torch.maximum(height.abs(), size))
        ended = ended | (size <= 16 * torch.finfo(v.dtype).eps * scale)
        v = torch.where(ended[:, None], 0.0, w / size.where(~ended, 1.0)[:, None])
        if k + 1 < products:
            matrix[:, k, k + 1] = matrix[:, k + 1, k] = torch.where(ended, 0.0, size).double()
    return torch.linalg.eigvalsh(matrix)[:, 0].to(v.dtype)
