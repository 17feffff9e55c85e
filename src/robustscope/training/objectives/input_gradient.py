"""Input-gradient regularisation, also called double backpropagation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from robustscope.certify.region import DUAL
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network

BIBTEX = """@inproceedings{simongabriel2019first,
  title = {First-order Adversarial Vulnerability of Neural Networks and Input Dimension},
  author = {Simon-Gabriel, Carl-Johann and Ollivier, Yann and Bottou, L{\\'e}on and Sch{\\"o}lkopf, Bernhard and
            Lopez-Paz, David},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "input_gradient",
    version=1,
    source="Simon-Gabriel et al., 2019, arXiv:1802.01421, Sec. 2.2; Drucker & LeCun, 1992, doi:10.1109/72.165600",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    kind="regulariser",
    passes=lambda p: Passes(1, 3),
    neutral={},
)
def input_gradient(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    weight: float = 1.0,
    form: Literal["first_order", "squared"] = "first_order",
) -> Iterator[Term]:
    """Train on J(x) + weight * epsilon * ||gradient of J in x||_q, what an attack adds to the loss to first order.

    q is the order dual to the threat model's norm: 1 for linf, 2 for l2, inf for l1. The form "squared" is
    J(x) + weight * ||gradient||_2^2 whatever epsilon is. Either holds for each sample by itself, so that the same weight
    means the same for every batch size.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm and radius of the form "first_order"; bounds are not used.
        draws: not used.
        step: not used.
        weight: of the penalty, >= 0. 0.5 is the paper's mean of clean and attacked loss.
        form: "first_order", or "squared" for classical double backpropagation.

    Source: Simon-Gabriel et al. 2019, arXiv:1802.01421, Eq. 4: the authors write lambda d^(1 - 1/q) / 2 for what is
        weight * epsilon here, so that lambda is the linf radius that all norms share. "squared": Drucker & LeCun 1992;
        Etmann et al. 2019, arXiv:1905.04172, Sec. 5.

    Departures: published code of the squared form differentiates the mean loss of a batch of B, so that its weight is
        B^2 times the one here.
    """
    values, gradient, _ = network.input_gradient(partial(cross_entropy, y=y), x, graph=True)
    flat = gradient.flatten(1)
    if form == "squared":
        penalty = flat.square().sum(1)
    else:
        penalty = threat.radius(x) * torch.linalg.vector_norm(flat, DUAL[threat.norm], dim=1)
    yield Term(values + weight * penalty, notes={"penalty": penalty.detach()})
