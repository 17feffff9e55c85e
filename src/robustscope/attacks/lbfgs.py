"""Box-constrained L-BFGS: the attack that found adversarial examples."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.confident import ConfidentSearch
from robustscope.attacks.constants import ConstantSearch
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{szegedy2014intriguing,
  title = {Intriguing Properties of Neural Networks},
  author = {Szegedy, Christian and Zaremba, Wojciech and Sutskever, Ilya and Bruna, Joan and Erhan, Dumitru and
    Goodfellow, Ian and Fergus, Rob},
  booktitle = {International Conference on Learning Representations},
  year = {2014}
}"""


@register(
    "lbfgs",
    version=2,
    source="Szegedy et al., 2014, arXiv:1312.6199, Sec. 4.1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l2",),
    goals=("untargeted", "targeted"),
    quick={"search_steps": 5, "queries": 12, "initial_constant": 0.5},
    cost=lambda p: (1 + p["search_steps"] * p["queries"], p["search_steps"] * p["queries"]),
)
def lbfgs(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    search_steps: int = 12,
    queries: int = 200,
    initial_constant: float = 1e-2,
    confidence: float = 0.0,
) -> AttackResult:
    """Minimise ||x' - x||^2 + c * loss inside the bounds by L-BFGS-B, for the smallest c that succeeds.

    The loss is the cross-entropy of the target, or, without a target, of "any class but the true one":
    -log(sum of the other classes' probabilities), which is the same for two classes. The constant c is searched for each
    sample as in ``cw_l2``. Every point that the optimiser asks about, also inside its line searches, is judged, and the
    nearest adversarial one is returned. Samples are optimised one by one, so this is a slow attack.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2, radius, bounds; examples beyond the radius are projected back at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        search_steps: constants tried for each sample, >= 1.
        queries: most points asked about for each constant, >= 1.
        initial_constant: first c, > 0; distances are measured in units of the width of the bounds.
        confidence: margin (in logits) by which an example must win to count, >= 0.

    Returns:
        The nearest example found for each sample if it lies within epsilon, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Szegedy et al. 2014, arXiv:1312.6199, Sec. 4.1.

    Departures: the paper weighs the distance and writes of the smallest weight, which read literally gives the largest
        perturbation; the smallest weight of the *loss* is meant, and searched here. The distance is squared, which has
        the same minimisers for another c and a gradient at x. The paper is targeted only. The optimiser works in float64;
        models of float32 answer in float32, which ends line searches earlier.
    """
    check_positive(search_steps=search_steps, queries=queries, initial_constant=initial_constant)
    best = ConfidentSearch(model, x, y, threat, targets, confidence)
    for row in best.start().tolist():
        rows = torch.tensor([row], device=x.device)
        search = ConstantSearch.begin(x[rows].double(), initial_constant, search_steps)
        through = torch.zeros(1, dtype=torch.bool, device=x.device)
        while not through:
            found = _minimise(best, rows, float(search.constant), queries)
            through = search.advance(~through, through.new_tensor([found]))
    return best.result()


def _other(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the log-probability of the target, or of any class but the true one: (b,)."""
    if targets is not None:
        return cross_entropy(logits, y, targets)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.logsumexp(1)


class _Spent(Exception):
    """The queries for this constant are spent."""


def _minimise(best: ConfidentSearch, rows: Tensor, constant: float, queries: int) -> bool:
    """Optimise one sample for one constant; tell whether the last point asked about is adversarial."""
    x = best.x[rows]
    lower, upper = best.threat.bounds
    width = upper - lower
    start = ((x.double() - lower) / width).flatten().cpu().numpy()
    state = {"asked": 0, "found": False}

    def objective(u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        if state["asked"] >= queries:
            raise _Spent
        state["asked"] += 1
        point = torch.as_tensor(u, device=x.device).mul(width).add_(lower).to(x.dtype).clamp_(lower, upper).view_as(x)
        values, gradients, found = best.gradient(rows, point, _other)
        state["found"] = bool(found)
        delta = u - start
        slope = gradients.double().flatten().cpu().numpy() * width
        return float(delta @ delta) - constant * float(values), 2 * delta - constant * slope

    with suppress(_Spent):
        minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(start))
    return bool(state["found"])
