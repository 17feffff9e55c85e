"""FREE: one backward pass trains the network and the perturbation at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import climb
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network

BIBTEX = """@inproceedings{shafahi2019adversarial,
  title = {Adversarial Training for Free!},
  author = {Shafahi, Ali and Najibi, Mahyar and Ghiasi, Amin and Xu, Zheng and Dickerson, John and Studer, Christoph and
    Davis, Larry S. and Taylor, Gavin and Goldstein, Tom},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


@register(
    "free",
    version=1,
    source="Shafahi et al., 2019, arXiv:1904.12843, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["replays"], p["replays"]),
    neutral={"replays": 1},
    quick={"replays": 3},
    known_failures={"heeds_the_radius": "the first replay of the first batch is clean: its perturbation is zero"},
)
def free(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    replays: int = 8,
    relative_step_size: float = 1.0,
) -> Iterator[Term]:
    """Train on each batch several times; the gradient of every replay moves the weights and then the perturbation.

    delta <- P(delta + a * epsilon * s(gradient)). It outlives the replays and the batches: a batch begins with the
    perturbations that the rows of the last one ended with. One visit of a batch costs ``replays`` passes, so divide the
    epochs of a recipe by ``replays`` to spend what standard training spends; the objective does not do so itself, and the
    learning rate stays the same during the replays of a batch.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: not used.
        step: remembers the perturbation of each row of a batch, zeros at first.
        replays: m, >= 1; 8 on CIFAR-10, 4 on ImageNet.
        relative_step_size: as a fraction of epsilon; 1 in the paper, which makes linf perturbations jump from corner to
            corner. Where training stalls at a constant prediction, let epsilon rise slowly (epsilon_ramp).

    Raises:
        InvalidValue: for less than one replay.

    Source: Shafahi et al. 2019, arXiv:1904.12843, Alg. 1.

    Departures: perturbations are projected on ball and bounds together before they are remembered, where the code of the
        paper clips the sum alone. The network is in training mode throughout, as there. Several processes keep the rows
        of a whole batch apart; the last batch of an epoch, if smaller, is cut elsewhere, and there they give other
        perturbations to some rows than one process does.
    """
    if replays < 1:
        raise InvalidValue(f"replays={replays} was given", "1 or more is allowed", "The paper takes 8 on CIFAR-10.")
    delta = step.remember("free/delta", (step.batch, *x.shape[1:]), x)
    for _ in range(replays):
        with torch.no_grad():
            point = balls.project(threat, x, x + delta[step.rows])
        point.requires_grad_(True)
        yield Term(cross_entropy(network.logits(point), y))
        moved = climb(threat, x, point.detach(), network.received(point), relative_step_size)
        delta[step.rows] = moved - x
