"""AWP: PGD adversarial training at weights that are perturbed against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training import distributed
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Losses, Mode, Network

BIBTEX = """@inproceedings{wu2020adversarial,
  title = {Adversarial Weight Perturbation Helps Robust Generalization},
  author = {Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""


@register(
    "awp",
    version=1,
    source="Wu, Xia, Wang, 2020, arXiv:2004.05884, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(*[p["steps"] + (2 if p["weight_radius"] else 1)] * 2),
    neutral={"weight_radius": 0.0},
    quick={"steps": 3},
    known_failures={"couples_no_samples": "the weights are perturbed against the whole batch"},
)
def awp(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    weight_radius: float = 0.005,
    steps: int = 10,
    relative_step_size: float = 0.25,
    random_start: bool = True,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on PGD samples by the gradient at w + v, v = c ||w|| g / ||g|| for each weight tensor, g the gradient at w.

    The loss is to be low all around the weights, which narrows the gap between robust accuracy in training and test. The
    weights are put back exactly before they are updated. Biases and scales of normalisation are not perturbed.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: tells the size of the batch.
        weight_radius: c, gamma in the paper: length of v relative to the weights. 0 is PGD training.
        steps: of the attack on the inputs, >= 0.
        relative_step_size: as a fraction of epsilon.
        random_start: start at a uniform point of the ball.
        mode: mode of the network while its inputs are attacked.

    Raises:
        InvalidValue: for a negative radius.

    Source: Wu, Xia, Wang 2020, arXiv:2004.05884, Eq. 8-10 and Alg. 1; one step for v, as in the published code.

    Departures: all tensors of two dimensions or more are perturbed, whatever their name. The pass that finds v leaves
        running statistics as they were, for the published code takes it on a copy.
    """
    if weight_radius < 0:
        raise InvalidValue(f"weight_radius={weight_radius} was given", "0 or more is allowed", "The paper takes 0.005.")
    losses = partial(cross_entropy, y=y)
    start = random_point(x, threat, draws, "start") if random_start else x
    x_adv = ascend(network, x, threat, losses, start, steps=steps, relative_step_size=relative_step_size, mode=mode)
    if not weight_radius:
        yield Term(losses(network.logits(x_adv)))
        return
    weights = [weight for weight in network.module.parameters() if weight.requires_grad and weight.dim() > 1]
    gradients = _gradients(network, losses, x_adv, weights, 1 / step.batch)
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                size = torch.linalg.vector_norm(gradient)
                if size > 0:
                    weight += gradient * (weight_radius * torch.linalg.vector_norm(weight) / size)
        yield Term(losses(network.logits(x_adv)), update=False)
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
    yield Term(x.new_zeros(len(x), requires_grad=True))  # only now may the gradient of the term before be stepped along


def _gradients(
    network: Network, losses: Losses, x_adv: Tensor, weights: Sequence[Tensor], factor: float
) -> list[Tensor]:
    """Return the gradients of the weights over all processes; running statistics stay as they are."""
    buffers = [(buffer, buffer.clone()) for buffer in network.module.buffers()]
    found = list(network.weight_gradients(losses(network.logits(x_adv)), weights, factor))
    for buffer, before in buffers:
        buffer.copy_(before)
    distributed.add_up(found)
    return found
