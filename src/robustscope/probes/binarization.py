"""The binarization test: an example is put where it must be found, and the attack is asked to find it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.probes.bench import AttackText, Bench, Reading
from robustscope.probes.cards import register, runs_of
from robustscope.probes.features import Cut

SAMPLES = 20
"""Samples of the bench that are tested, the first ones."""
INNER, INSIDE = 200, 0.95
"""Points inside, and the share of epsilon that holds them."""
TRIES = 10
"""Boundary points tried until one can be told from all points inside."""
PASS, GRAVE = 0.95, 0.75
"""Success rates of the attack: the least to pass, and that below which failing is enough by itself."""
RANDOM = 200
FEWEST = 5


def discriminator(inner: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the weight (F,), the largest score inside and the boundary point's score; None if it cannot be told apart.

    Ridge regression with one point on the other side has a closed form: the weight is (C + c I)^-1 (b - m), with mean m
    and covariance C of the points inside. c is the mean variance: with less, the weight rests on directions in which hardly
    anything varies, and the binary network is rougher than the network that is tested.

    Args:
        inner: float64 (N, F), features of the points inside.
        boundary: float64 (F,), those of the boundary point.
    """
    mean = inner.mean(0)
    centred = inner - mean
    scale = centred.square().mean()
    if not scale > 0:
        return None
    covariance = centred.T @ centred / len(inner)
    ridge = scale * torch.eye(len(mean), dtype=inner.dtype, device=inner.device)
    weight = torch.linalg.solve(covariance + ridge, boundary - mean)
    inside, outside = (inner @ weight).amax(), boundary @ weight
    spread = (centred @ weight).std()
    return (weight, inside, outside) if outside - inside > 0.25 * spread else None


def corner(threat: ThreatModel, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return a random point of the largest distance that the bounds allow: a corner in linf, the sphere in l2 and l1."""
    way = draws.normal(purpose, x)
    if threat.norm == "l1":
        way = way * (draws.uniform(f"{purpose}/few", x, 0.0, 1.0) < 0.2)
    return balls.furthest(threat, x, way)


@register(
    "planted_examples_are_found",
    version=1,
    source="Zimmermann et al., 2022, arXiv:2206.13991 (binarization test)",
    measures="success rate of the gradient attack on binary networks that have an adversarial example by construction",
    means="the attack misses examples that are known to be there, so it misses others too",
    remedy="Strengthen or adapt the attack until it finds what was planted; then run it again on the model itself.",
    weight=2,
    cost=lambda white, facts: runs_of(facts["all"], 1, 3, (TRIES + 1) * INNER + TRIES + RANDOM + 2),
)
def planted_examples_are_found(bench: Bench) -> Reading:
    """Put a binary readout in place of the last layer, once for each sample, and attack the result.

    The readout tells 200 random points of 0.95 of the ball from one random point of its boundary, which is then an
    adversarial example that exists. Its logits are as large at the sample as the margin of the model there. Samples whose boundary point
    cannot be told apart, or that noise breaks, prove nothing and are left out.

    Departures: the readout is fitted in closed form; logits where there is no last linear layer stand for features.
    """
    model, tried, hit, easy, missed = bench.model, 0, 0, 0, torch.zeros(len(bench.x), dtype=torch.bool)
    cut = Cut(model.module, model._normalise(bench.x[:1]))
    # Outputs behind a softmax are still to be attacked here: that they are was said elsewhere.
    binary = replace(model, module=cut, class_names=None, allow_probabilities=True)
    clean = margin(model.logits(bench.x[:SAMPLES]), bench.y[:SAMPLES])
    for row in range(min(SAMPLES, len(bench.x))):
        one = bench.part(torch.tensor([row]))
        if not plant(binary, cut, one, float(clean[row])):
            continue
        if _noise_succeeds(binary, one):
            easy += 1
            continue
        tried += 1
        found = any(_succeeds(bench, which, binary, one) for which in (bench.white, *bench.also))
        hit, missed[row] = hit + found, not found
    where = f"the {cut.features} features before the last layer" if cut.inner else "the logits"
    if tried < FEWEST:
        return Reading(
            None, f"only {tried} samples have an example that can be planted in {where}; noise breaks {easy}"
        )
    rate = hit / tried
    text = f"{hit} of {tried} examples planted in {where} were found"
    return Reading(rate >= PASS or tried - hit <= 1, text, rate, PASS, missed, weight=3 if rate < GRAVE else None)


def plant(binary: Classifier, cut: Cut, one: Bench, size: float) -> bool:
    """Fit the readout of ``cut`` to one sample, so that its boundary point is adversarial and no point inside is.

    Args:
        binary: the classifier around ``cut``.
        cut: its readout is changed.
        one: a bench of one sample.
        size: logit difference at the sample.

    Returns:
        Whether it could be done, judged by the binary network itself.
    """
    x, threat, draws = one.x, one.threat, one.draws.within("binarization")
    smaller = threat.scaled(INSIDE)
    inner = torch.cat([x, *(balls.sample(smaller, x, draws, f"inner/{i}") for i in range(INNER))])
    features = torch.cat([cut.seen(binary._normalise(part)) for part in inner.split(binary.batch_size)]).double()
    binary.ledger.forward += len(inner)
    for attempt in range(TRIES):
        edge = corner(threat, x, draws, f"boundary/{attempt}")
        fitted = discriminator(features, cut.seen(binary._normalise(edge))[0].double())
        binary.ledger.forward += 1
        if fitted is None:
            continue
        weight, inside, outside = fitted
        middle = (inside + outside) / 2
        scale = size / (middle - features[0] @ weight)
        cut.readout.weight.copy_(scale * weight)
        cut.readout.bias.copy_(-scale * middle)
        zero = torch.zeros(len(inner), dtype=torch.int64, device=x.device)
        apart = (
            not is_adversarial(binary.logits(inner), zero).any() and is_adversarial(binary.logits(edge), zero[:1]).all()
        )
        if apart:
            return True
    return False


def _succeeds(bench: Bench, which: AttackText, binary: Classifier, one: Bench) -> bool:
    """Run one attack of the evaluation on the binary network."""
    name, parameters = which
    settings = {**bench.defaults(name), **parameters}
    # The ratio of logit differences needs more classes; the margin is its numerator.
    changes: dict[str, Any] = {"loss": "margin"} if settings.get("loss") == "dlr" else {}
    y = torch.zeros(1, dtype=torch.int64, device=one.x.device)
    x_adv, _ = bench.attacker(name, binary, one.x, y, one.threat, draws=one.draws, **{**parameters, **changes})
    return bool(is_adversarial(binary.logits(x_adv), y))


def _noise_succeeds(binary: Classifier, one: Bench) -> bool:
    draws = one.draws.within("binarization")
    points = torch.cat([balls.sample(one.threat, one.x, draws, f"random/{i}") for i in range(RANDOM)])
    zero = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    return bool(is_adversarial(binary.logits(points), zero).any())
