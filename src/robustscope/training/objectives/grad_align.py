"""GradAlign: FGSM adversarial training kept from overfitting by aligned gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import climb, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{andriushchenko2020understanding,
  title = {Understanding and Improving Fast Adversarial Training},
  author = {Andriushchenko, Maksym and Flammarion, Nicolas},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""


def cifar10_weight(epsilon: float) -> float:
    """Return the weight that the authors take on CIFAR-10 for an linf radius in [0, 1] units.

    Example:
        >>> round(cifar10_weight(8 / 255), 6), round(cifar10_weight(16 / 255), 6)
        (0.2, 2.0)
    """
    return 0.02 * math.exp(255 * epsilon * math.log(10) / 8)


def svhn_weight(epsilon: float) -> float:
    """Return the weight that the authors take on SVHN for an linf radius in [0, 1] units.

    Example:
        >>> round(svhn_weight(8 / 255), 6), round(svhn_weight(12 / 255), 3)
        (2.5, 3.162)
    """
    return 2.5**2 / 4 * math.exp(255 * epsilon * math.log(1.6) / 8)


def misalignment(here: Tensor, there: Tensor) -> Tensor:
    """Return 1 - cos(here, there) of each sample: (B,), differentiable in ``there``; 0 where a gradient vanishes.

    A confident sample's gradient underflows to exactly zero; the norm of that has no derivative, and one such sample
    would turn all weights into NaN. Gradients whose largest value is below the square root of the smallest normal number
    (1e-19 in float32) are left out too, because the derivative of their direction overflows.

    Args:
        here: (B, *S), gradients taken as constants.
        there: (B, *S), gradients, with a graph.
    """
    a, b = here.detach().flatten(1), there.flatten(1)
    sizes = [gradient.detach().abs().amax(1, keepdim=True) for gradient in (a, b)]
    least = torch.finfo(a.dtype).tiny ** 0.5
    rows = ((sizes[0] > least) & (sizes[1] > least)).nonzero()[:, 0]
    a, b = (gradient[rows] / size[rows] for gradient, size in zip((a, b), sizes, strict=True))
    cosine = (a * b).sum(1) / (torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1))
    return a.new_zeros(len(here)).index_copy(0, rows, 1 - cosine)


@register(
    "grad_align",
    version=1,
    source="Andriushchenko, Flammarion, 2020, arXiv:2007.02617, Sec. 4",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(3, 5) if p["weight"] else Passes(2, 2),
    neutral={"weight": 0.0},
)
def grad_align(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    weight: float = 0.2,
    relative_step_size: float = 1.0,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on FGSM samples, and on 1 - cos of the loss gradients at the sample and at a uniform point of its ball,
    which may lie outside the bounds.

    Where the two gradients point the same way, one step finds what many steps find, and FGSM training cannot overfit
    catastrophically. The first gradient is a constant (and is the one of FGSM); the second is differentiated again.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        weight: of the alignment, lambda; the best one depends on data and epsilon, see :func:`cifar10_weight` and
            :func:`svhn_weight`. Too large a weight underfits. 0 is FGSM training.
        relative_step_size: of FGSM, as a fraction of epsilon.
        mode: mode of the network while it is attacked and its gradients are compared; the published code says "train".

    Raises:
        InvalidValue: for a negative weight.

    Source: Andriushchenko & Flammarion 2020, arXiv:2007.02617, Eq. 4 and Sec. 4; the weights from the published code.

    Departures: samples without a gradient count 0 in the mean over the batch, where the published code takes the mean of
        the others, so that no sample's loss depends on the rest of the batch. FGSM shares the first gradient.
    """
    if weight < 0:
        raise InvalidValue(f"weight={weight} was given", "0 or more is allowed", "The paper takes 0.2 at 8/255.")
    losses = partial(cross_entropy, y=y)
    with network.mode(mode):
        _, here, _ = network.input_gradient(losses, x)
        if weight:
            point = random_point(x, threat, draws, "alignment", inside_bounds=False)
            _, there, _ = network.input_gradient(losses, point, graph=True)
    value = losses(network.logits(climb(threat, x, x, here, relative_step_size)))
    if not weight:
        yield Term(value)
        return
    apart = misalignment(here, there)
    yield Term(value + weight * apart, notes={"adversarial_loss": value.detach(), "misalignment": apart.detach()})
