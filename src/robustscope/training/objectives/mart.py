"""MART: adversarial training that treats misclassified samples differently."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import ascend, divergence, near_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{wang2020improving,
  title = {Improving Adversarial Robustness Requires Revisiting Misclassified Examples},
  author = {Wang, Yisen and Zou, Difan and Yi, Jinfeng and Bailey, James and Ma, Xingjun and Gu, Quanquan},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log p_y - log(1 - max_{k != y} p_k): (B,). The second part also pushes the strongest rival down.

    Args:
        logits: (B, K), K >= 2.
        y: int64 (B,), true classes.

    Source: Wang et al. 2020, Eq. 7.

    Departures: 1 - p_k is the sum of the other probabilities, computed from the logits, so that it needs no small
        constant and has a gradient even where the rival is certain. The published code adds 1e-4 to it.
    """
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    others = logits.scatter(1, rival, -torch.inf)
    return cross_entropy(logits, y) + logits.logsumexp(1) - others.logsumexp(1)


@register(
    "mart",
    version=1,
    source="Wang et al., 2020, ICLR, Eq. 11 and Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 2, p["steps"] + 2),
    quick={"steps": 3},
)
def mart(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    beta: float = 6.0,
    steps: int = 10,
    relative_step_size: float = 0.25,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on BCE(f(x'), y) + beta * KL(p(x) || p(x')) * (1 - p_y(x)), x' the end of a PGD path.

    BCE is :func:`boosted_cross_entropy`. The divergence counts in proportion to how unsure the network is of the clean
    sample; a sample that it gets right with certainty is trained on by BCE alone.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        beta: weight of the divergence; lambda in the paper.
        steps: of the attack, >= 0.
        relative_step_size: as a fraction of epsilon; the published code takes 0.007/0.031 on CIFAR-10.
        mode: mode of the network while it is attacked.

    Raises:
        InvalidValue: for a negative beta.

    Source: Wang, Zou, Yi, Bailey, Ma, Gu 2020, ICLR, Eq. 11; beta and the start of the attack from the published code.

    Departures: no small constants inside logarithms; see :func:`boosted_cross_entropy`.
    """
    if beta < 0:
        raise InvalidValue(f"beta={beta} was given", "0 or more is allowed", "The published code takes 6.")
    x_adv = ascend(
        network,
        x,
        threat,
        partial(cross_entropy, y=y),
        near_point(x, threat, draws, "start"),
        steps=steps,
        relative_step_size=relative_step_size,
        mode=mode,
    )
    logits, logits_adv = network.logits(x), network.logits(x_adv)
    unsure = 1 - logits.softmax(1).gather(1, y[:, None])[:, 0]
    boosted, stability = boosted_cross_entropy(logits_adv, y), divergence(logits, logits_adv) * unsure
    yield Term(boosted + beta * stability, notes={"boosted": boosted.detach(), "stability": stability.detach()})
