"""Randomised smoothing: certificates for the vote of a classifier under Gaussian noise, not for the classifier itself."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import betainc, betaincinv, ndtr, ndtri
from torch import Tensor
from torch.nn import functional as F

from robustscope.certify.cards import register
from robustscope.certify.margins import clock, empty, statuses
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Certificate, Ledger, Norm, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier
from robustscope.models.defended import Expected, replaced

BIBTEX = """@inproceedings{cohen2019certified,
  title = {Certified Adversarial Robustness via Randomized Smoothing},
  author = {Cohen, Jeremy and Rosenfeld, Elan and Kolter, J. Zico},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""

BLOCK = 64
"""Noisy copies of a sample that share one key; always drawn whole, so that more votes contain fewer."""

ABSTAINED = -1
"""What :func:`predict` returns where the votes do not tell."""


@register(
    "smoothing",
    version=1,
    source="Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918, Sec. 3.2.2 (CERTIFY) and Theorem 1",
    bibtex=BIBTEX,
    norms=("l2", "l1", "linf"),
    sound="probabilistic",
    access="decisions",
    stochastic=True,
    subject=lambda model, parameters: smooth(model, noise=parameters["noise"]),
    cost=lambda p: 1 + p["first_votes"] + p["votes"],
    quick={"noise": 0.25, "first_votes": 50, "votes": 1000},
)
def smoothing(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    noise: float = 0.25,
    first_votes: int = 100,
    votes: int = 10_000,
    confidence: float = 0.999,
    memory: int = 64,
    timeout: float | None = None,
) -> Certificate:
    """Count votes under Gaussian noise; bound the share of the true class; turn it into a radius.

    The smoothed classifier g(x) is the class that ``model`` is likeliest to give to x + noise. If that class has a share
    of at least p > 1/2, g is constant in the l2 ball of radius noise * Phi^-1(p). **The certificate is about g**
    (:func:`smooth`, :func:`predict`); about ``model`` itself it says nothing.

    A first count chooses the class that g seems to have; samples where it is not the true one end there, as "unknown". For
    the others a second, independent count gives p by the exact one-sided bound of Clopper and Pearson.

    Args:
        model: any classifier; only its decisions are asked, on inputs that noise moves out of the bounds.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds. l1 balls lie in the l2 ball of their radius, linf balls in that of sqrt(d) times
            theirs, d values an input; both are certified by that and no better.
        draws: random numbers.
        noise: standard deviation (the paper's sigma), in the units of the bounds, > 0.
        first_votes: of the first count (n0), >= 1.
        votes: of the second count (n), >= 1. The largest radius is noise * Phi^-1((1 - confidence)^(1 / votes)).
        confidence: probability that the statement about a sample holds, for each sample by itself (1 - alpha), in
            (1/2, 1).
        memory: mebibytes that noisy copies may take at once; 64 copies of one sample always fit.
        timeout: seconds for the call; samples whose votes are not all counted by then are "timeout". None: no limit.

    Returns:
        Lower bounds of the share of the true class minus the largest other share of g's votes, over the threat set, in
        [-1, 1]; the radius; ``confidence``.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918, Theorem 1 and Sec. 3.2.2, CERTIFY, with the share of all other
        classes together, 1 - p, for the runner-up.

    Departures: the true class is given, so a sample that is certified for another class is "unknown", not certified.
        Noise is drawn in float32; what rounding does to a Gaussian (Jin et al. 2022, arXiv:2205.10159) is not covered.
    """
    _check(noise, first_votes, votes, confidence)
    began, deadline = clock(timeout)
    if not len(x):
        return replace(empty(x), confidence=confidence, radius=x.new_zeros(0, dtype=torch.float64))
    first, late = tally(model, x, draws, "first", noise, first_votes, memory, deadline)
    forward = first.sum(1)
    chosen = ((first.argmax(1) == y) & ~late).nonzero()[:, 0]
    second, slow = tally(model, x[chosen], draws.select(chosen), "second", noise, votes, memory, deadline)
    late[chosen] = slow
    forward[chosen] += second.sum(1)
    chosen, second = chosen[~slow], second[~slow]
    share = np.zeros(len(x))
    share[chosen.cpu().numpy()] = lower_share(second.gather(1, y[chosen, None])[:, 0], votes, 1 - confidence)
    factor = in_l2(threat.norm, x)
    reach = factor * (threat.radius(x).double() + balls.slack(threat, x)).cpu().numpy()
    score = ndtri(share)  # -inf where nothing is known
    margin = torch.as_tensor(2 * ndtr(score - reach / noise) - 1, device=x.device)
    radius = np.maximum(noise * score, 0.0) / factor - balls.slack(threat, x)
    return Certificate(
        lower_margin=margin.to(x.dtype),
        status=statuses(margin > 1e-12, late),
        forward=forward,
        rows=torch.zeros_like(forward),
        seconds=time.perf_counter() - began,
        confidence=confidence,
        radius=torch.as_tensor(np.maximum(radius, 0.0), device=x.device),
    )


def tally(
    model: Classifier,
    x: Tensor,
    draws: Draws,
    purpose: str,
    noise: float,
    votes: int,
    memory: int = 64,
    deadline: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Count which classes a model gives to noisy copies of each sample.

    Args:
        model: asked for decisions.
        x: (B, *S).
        draws: of these samples. Neither the other samples nor ``memory`` change their noise.
        purpose: of the draws.
        noise: standard deviation.
        votes: copies of each sample.
        memory: mebibytes that copies and noise may take at once.
        deadline: of ``time.perf_counter``.

    Returns:
        int64 (B, K), and bool (B,): whose count the deadline cut off.
    """
    counts = torch.zeros(len(x), model.classes(x), dtype=torch.int64, device=x.device)
    late = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    size = memory * 2**20 // max(2 * BLOCK * x[:1].numel() * x.element_size(), 1)
    for rows in torch.arange(len(x), device=x.device).split(max(1, size)) if len(x) else ():
        own, form = draws.select(rows), x.new_empty(len(rows), BLOCK, *x.shape[1:])
        for block in range(math.ceil(votes / BLOCK)):
            if time.perf_counter() > deadline:
                late[rows] = True
                break
            used = min(BLOCK, votes - block * BLOCK)
            moved = own.normal(f"{purpose}/{block}", form)[:, :used].mul_(noise).add_(x[rows, None])
            found = model.decisions(moved.flatten(0, 1)).view(len(rows), used)
            counts[rows] += F.one_hot(found, counts.shape[1]).sum(1)
    return counts, late


def lower_share(count: Tensor, votes: int, error: float) -> np.ndarray:
    """Return the exact one-sided lower bounds of Clopper and Pearson for a share: float64 (B,).

    Args:
        count: int64 (B,), successes, 0 to ``votes``.
        votes: trials.
        error: probability of a bound above the true share, at most.

    Example:
        >>> lower_share(torch.tensor([0, 100]), 100, 0.001).round(4).tolist()
        [0.0, 0.9333]
    """
    known = count.cpu().numpy().astype(np.float64)
    return np.where(known > 0, betaincinv(np.maximum(known, 1), votes - known + 1, error), 0.0)


def in_l2(norm: Norm, x: Tensor) -> float:
    """Return the l2 radius of the smallest l2 ball around a ball of radius 1."""
    return math.sqrt(x[0].numel()) if norm == "linf" else 1.0


def predict(
    model: Classifier,
    x: Tensor,
    *,
    draws: Draws,
    noise: float = 0.25,
    votes: int = 10_000,
    confidence: float = 0.999,
    memory: int = 64,
) -> Tensor:
    """Return the class of the smoothed classifier, or -1 where the votes do not tell which it is.

    A point in a certified ball contradicts the certificate if this returns another class for it, which happens with a
    probability of 1 - ``confidence`` at most for each of the two.

    Args:
        model: the classifier that is asked, not the smoothed one.
        x: (B, *S).
        draws: random numbers; take others than the certificate's.
        noise, votes, confidence, memory: as in :func:`smoothing`.

    Returns:
        int64 (B,).

    Raises:
        InvalidValue: for numbers out of range.

    Example:
        >>> model = Classifier(torch.nn.Linear(2, 2, bias=False).eval())
        >>> _ = torch.nn.init.eye_(model.module.weight)
        >>> points = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> predict(model, points, draws=Draws(0, (0, 1), "example"), votes=500).tolist()
        [0, -1]

    Source: Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918, Sec. 3.2.1 (PREDICT).
    """
    _check(noise, 1, votes, confidence)
    if not len(x):
        return torch.zeros(0, dtype=torch.int64, device=x.device)
    counts, _ = tally(model, x, draws, "prediction", noise, votes, memory)
    (first, second), (best, _) = (column.unbind(1) for column in counts.topk(2, dim=1))
    one, two = first.cpu().double().numpy(), second.cpu().double().numpy()
    p_value = 2 * betainc(np.maximum(one, 1), two + 1, 0.5)  # of a fair coin at least as uneven, both sides
    sure = torch.as_tensor(p_value <= 1 - confidence, device=x.device)
    return torch.where(sure, best, torch.full_like(best, ABSTAINED))


class Smoothed(Expected):
    """The vote of a classifier under numbered noise; see :func:`smooth`."""

    def __init__(self, door: Classifier, noise: float, **options: Any) -> None:
        super().__init__(door, True, "smoothed", average="probabilities", **options)
        self.noise = noise

    def once(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the logits of one noisy copy of each row."""
        return self._door._outputs(x + self.noise * draws.normal("noise", x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithms of the shares of the votes, with half a vote more for each class.

        Their derivatives are those of the logarithm of the mean probabilities, over other noise.
        """
        with torch.no_grad():
            seen = (self.once(x, self._draws(x, "verdict", i)) for i in range(self.verdict_draws))
            count = sum(F.one_hot(logits.argmax(1), logits.shape[1]) for logits in seen)
            value = torch.as_tensor(count).to(x.dtype).add(0.5)
            value = (value / value.sum(1, keepdim=True)).log()
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        return replaced(value, self._mean(x, "gradient", self.gradient_draws).to(value.dtype))


def smooth(
    model: Classifier, *, noise: float = 0.25, verdict_draws: int = 100, gradient_draws: int = 4, seed: int = 0
) -> Classifier:
    """Return the smoothed classifier that certificates of "smoothing" are about, for attacks and their judge.

    The true one is an expectation. This one is the majority of ``verdict_draws`` votes under numbered noise, the same for
    every input, so that it is a function of its input alone; :func:`predict` decides, with fresh noise, whether a point
    that fools it fools the true one.

    Args:
        model: the classifier that votes. Where it gives gradients, an attack sees those of its mean probabilities
            (Salman et al. 2019, arXiv:1906.04584); of a black box it gets scores.
        noise: standard deviation, as in :func:`smoothing`.
        verdict_draws: votes that decide, >= 1.
        gradient_draws: noisy copies whose mean the gradient is, >= 1.
        seed: of both.

    Returns:
        A classifier with a ledger of its own, in which one row is one question to the smoothed classifier. Its logits are
        logarithms of shares.

    Raises:
        InvalidValue: for numbers out of range.

    Example:
        >>> model = smooth(Classifier(torch.nn.Linear(2, 3).eval()), noise=0.1)
        >>> model.logits(torch.rand(4, 2)).exp().sum(1).round().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    _check(noise, 1, 1, 0.999)
    module = Smoothed(model, noise, verdict_draws=verdict_draws, gradient_draws=gradient_draws, seed=seed)
    return replace(model, module=module, mean=None, std=None, ledger=Ledger())


def _check(noise: float, first_votes: int, votes: int, confidence: float) -> None:
    if not 0 < noise < math.inf or first_votes < 1 or votes < 1 or not 0.5 < confidence < 1:
        given: Mapping[str, float] = {
            "noise": noise, "first_votes": first_votes, "votes": votes, "confidence": confidence
        }  # fmt: skip
        raise InvalidValue(
            ", ".join(f"{name}={value}" for name, value in given.items()) + " were given",
            "noise > 0, at least one vote and a confidence between 1/2 and 1 are allowed",
            "Begin with noise=0.25, first_votes=100, votes=10000, confidence=0.999.",
        )
