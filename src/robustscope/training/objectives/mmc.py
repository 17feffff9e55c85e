"""MMC: squared distance of the logits from class centres that are as far apart as can be."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{pang2020rethinking,
  title = {Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness},
  author = {Pang, Tianyu and Xu, Kun and Dong, Yinpeng and Du, Chao and Chen, Ning and Zhu, Jun},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""


def centres(classes: int, length: float, like: Tensor) -> Tensor:
    """Return Max-Mahalanobis centres: (K, K), rows mu_k = length * sqrt(K / (K - 1)) * (e_k - 1/K).

    A simplex: <mu_k, mu_k> = length^2, and <mu_j, mu_k> = -length^2 / (K - 1). It is the one of the paper up to a rotation,
    turned so that the nearest centre is that of the largest value: argmax_k <z, mu_k> = argmax_k z_k.

    Args:
        classes: K, >= 2.
        length: of each centre.
        like: gives dtype and device.

    Example:
        >>> mu = centres(3, 1.0, torch.empty(0))
        >>> [round(value, 3) for value in (mu @ mu.T)[0].tolist()]
        [1.0, -0.5, -0.5]
    """
    unit = torch.eye(classes, dtype=like.dtype, device=like.device) - 1 / classes
    return unit * (length * math.sqrt(classes / (classes - 1)))


def mahalanobis(logits: Tensor, y: Tensor, targets: Tensor | None = None, *, length: float = 10.0) -> Tensor:
    """Return half the squared distance from the centre of the true class, or minus that from the target's: (B,).

    The loss of an adaptive attack on a network trained by ``mmc``: hand it to an attack as ``loss``.

    Args:
        logits: (B, K).
        y: int64 (B,), true classes.
        targets: int64 (B,), classes to reach, or None.
        length: of the centres.

    Source: Pang et al. 2020, arXiv:1905.10626, Eq. 8.
    """
    mu = centres(logits.shape[1], length, logits)
    away = (logits - mu[y if targets is None else targets]).square().sum(1) / 2
    return away if targets is None else -away


@register(
    "mmc",
    version=1,
    source="Pang et al., 2020, arXiv:1905.10626, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 1, p["steps"] + 1),
    quick={"steps": 3},
)
def mmc(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    length: float = 10.0,
    steps: int = 10,
    relative_step_size: float = 0.25,
    random_start: bool = True,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on ||z - mu_y||^2 / 2 of PGD samples, z the logits, mu_k fixed centres at the corners of a simplex.

    Where softmax cross-entropy only asks that the true logit be larger, this pulls the samples of a class together. The
    network needs no other head: its last linear layer can turn and shift its outputs as it likes, so centres that were
    turned until argmax <z, mu_k> is argmax z_k are as good as those of the paper, and the network that is saved predicts
    like any other. With ``steps`` = 0 it is trained on clean samples; such a network is not robust to attacks that know
    the loss (:func:`mahalanobis`), whatever it says under others.

    Args:
        network: the network in training; its last layer should be linear, for centres have negative values.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        length: of the centres, > 0; 10 in the paper.
        steps: of the attack, which ascends this same loss; 0 trains on clean samples.
        relative_step_size: as a fraction of epsilon.
        random_start: start at a uniform point of the ball.
        mode: mode of the network while it is attacked.

    Raises:
        InvalidValue: for a length that is not positive.

    Source: Pang, Xu, Dong, Du, Chen, Zhu 2020, arXiv:1905.10626, Sec. 3.

    Departures: features are the K logits; the paper has as many as the last layer is wide, of which all but K - 1 are
        drawn to 0. The published code leaves out the factor 1/2.
    """
    if not length > 0:
        raise InvalidValue(f"length={length} was given", "a number > 0 is allowed", "The paper takes 10.")

    def losses(logits: Tensor) -> Tensor:
        return mahalanobis(logits, y, length=length)

    point = random_point(x, threat, draws, "start") if random_start and steps else x
    x_adv = ascend(network, x, threat, losses, point, steps=steps, relative_step_size=relative_step_size, mode=mode)
    yield Term(losses(network.logits(x_adv)))
