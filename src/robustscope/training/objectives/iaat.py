"""IAAT: adversarial training with a radius of its own for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.geometry.rules import is_adversarial
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@article{balaji2019instance,
  title = {Instance adaptive adversarial training: Improved accuracy tradeoffs in neural nets},
  author = {Balaji, Yogesh and Goldstein, Tom and Hoffman, Judy},
  journal = {arXiv preprint arXiv:1910.08051},
  year = {2019}
}"""


@register(
    "iaat",
    version=1,
    source="Balaji, Goldstein, Hoffman, 2019, arXiv:1910.08051, Alg. 1 and 2",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(3 * p["steps"] + 4, 3 * p["steps"] + 1),
    neutral={},
    quick={"steps": 3, "warm_up": 0},
)
def iaat(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    relative_growth: float = 1.9 / 8,
    memory: float = 0.9,
    warm_up: int = 10,
    steps: int = 10,
    relative_step_size: float = 0.25,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train by PGD inside radii that grow while a sample withstands them, shrink when not, and are 0 where it is wrong.

    With r the radius of a sample and g the growth, each visit probes r and r + g by PGD. The new radius is r + g if the
    larger one is withstood, r if only the smaller one is, r - g otherwise, at least 0, and 0 if the clean sample is
    misclassified; r moves towards it by 1 - memory, and the sample is trained on at the r that results.

    Radii are those of samples, not of pictures: augmentation makes them noisy. They are not bounded above, on purpose; a
    sample that the bounds of the inputs protect has one that goes on growing. During the warm-up a visit costs steps + 2
    rows forward and steps + 1 backward, not what the card says.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: remembers the radius of each sample of the training set, 0 at first.
        relative_growth: g, as a fraction of epsilon; 1.9/8 on CIFAR-10.
        memory: share of the old radius in the new one, from 0 to 1; 1 - beta in the paper.
        warm_up: epochs at the beginning in which the radius is epsilon, or 0 for misclassified samples.
        steps: of each of the three attacks, >= 1.
        relative_step_size: shortest step, as a fraction of epsilon; steps are 2 r / steps otherwise.
        mode: mode of the network while it is attacked and its predictions are looked at; the published code says "train".

    Raises:
        InvalidValue: for values outside these ranges.

    Source: Balaji, Goldstein, Hoffman 2019, arXiv:1910.08051, Alg. 1 and 2; defaults of the published code.
    """
    if not (0 <= memory <= 1 and relative_growth >= 0 and steps >= 1 and warm_up >= 0):
        raise InvalidValue(
            f"memory={memory}, relative_growth={relative_growth}, steps={steps}, warm_up={warm_up} were given",
            "0 <= memory <= 1, relative_growth >= 0, steps >= 1 and warm_up >= 0 are allowed",
            "The paper takes memory = 0.9, relative_growth = 0.2375, steps = 10, warm_up = 10.",
        )
    losses = partial(cross_entropy, y=y)
    ids = torch.tensor(draws.ids, dtype=torch.int64, device=x.device)
    epsilon = threat.common_epsilon

    def attacked(radii: Tensor, purpose: str) -> Tensor:
        within = replace(threat, epsilon=tuple(radii.tolist()))
        start = random_point(x, within, draws, purpose)
        least = relative_step_size * epsilon
        return ascend(
            network, x, within, losses, start, steps=steps, relative_step_size=2 / steps, least_step=least, mode=mode
        )

    def right(point: Tensor) -> Tensor:
        with torch.no_grad(), network.mode(mode):
            return ~is_adversarial(network.logits(point), y)

    radii = step.remember("iaat/radius", (step.samples,), x)
    old, clean = radii[ids], right(x)
    if step.epoch < warm_up:
        new = epsilon * clean.to(x)
    else:
        growth = relative_growth * epsilon
        smaller = torch.where(right(attacked(old, "probe")), old, (old - growth).clamp(min=0))
        goal = torch.where(right(attacked(old + growth, "wider")), old + growth, smaller) * clean
        new = memory * old + (1 - memory) * goal
    radii[ids] = new
    yield Term(losses(network.logits(attacked(new, "start"))), notes={"radius": new})
