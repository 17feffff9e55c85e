"""Local linearity regularisation: train the loss to be a plane around each sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.models.randomness import kept_randomness
from robustscope.training.adversary import random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Losses, Mode, Network

BIBTEX = """@inproceedings{qin2019adversarial,
  title = {Adversarial Robustness through Local Linearization},
  author = {Qin, Chongli and Martens, James and Gowal, Sven and Krishnan, Dilip and Dvijotham, Krishnamurthy and
            Fawzi, Alhussein and De, Soham and Stanforth, Robert and Kohli, Pushmeet},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


@register(
    "local_linearity",
    version=1,
    source="Qin et al., 2019, arXiv:1907.02610, Eq. 9; with dropout: Yang et al., 2020, arXiv:2003.02460, Sec. 5",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    kind="regulariser",
    passes=lambda p: Passes(p["steps"] + 2, p["steps"] + 4),
    neutral={},
)
def local_linearity(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    steps: int = 2,
    relative_step_size: float = 1.0,
    weight: float = 4.0,
    slope_weight: float = 3.0,
    mode: Mode = "train",
) -> Iterator[Term]:
    """Train on J(x) + weight * |J(x + d) - J(x) - d . g| + slope_weight * |d . g|, g the gradient of J at x.

    d is where a few steps inside the ball find the loss furthest from its plane. A loss that is a plane cannot grow by
    more than its slope, and one step of an attack is then as good as many. Yang et al. 2020 find dropout beside it to
    narrow the gap between training and test: set ``dropout`` in the recipe.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        steps: towards the point furthest from the plane, >= 0; both papers take 2.
        relative_step_size: as a fraction of epsilon.
        weight: of the distance from the plane; 4 in Qin et al. and, on CIFAR-10, in Yang et al.
        slope_weight: of the growth along the plane; 3 in the same.
        mode: mode of the network while d is searched; "train" searches on the network whose plane it is, dropout included,
            and moves the running statistics of batch norm.

    Source: Qin et al. 2019, arXiv:1907.02610, Eq. 9 and Alg. 1; settings of Yang et al. 2020, arXiv:2003.02460, App. D.

    Departures: the code of Yang et al. zeroes the gradient before it is used and multiplies all pairs of a batch; here
        both terms are those of Eq. 9, for each sample by itself. Everything is trained through, J(x) and g included.
    """
    losses = partial(cross_entropy, y=y)
    start = random_point(x, threat, draws, "start")
    with kept_randomness():  # dropout drops the same in all that is compared: it is one network
        values, gradient, _ = network.input_gradient(losses, x, graph=True)
    plane = values.detach(), gradient.detach()
    with network.mode(mode):
        point = _furthest(network, x, threat, losses, start, plane, steps, relative_step_size)
    along = ((point - x) * gradient).flatten(1).sum(1)
    gap = (losses(network.logits(point)) - values - along).abs()
    notes = {"gap": gap.detach(), "along": along.detach().abs()}
    yield Term(values + weight * gap + slope_weight * along.abs(), notes=notes)


def _furthest(
    network: Network,
    x: Tensor,
    threat: ThreatModel,
    losses: Losses,
    start: Tensor,
    plane: tuple[Tensor, Tensor],
    steps: int,
    relative_step_size: float,
) -> Tensor:
    """Return where steepest ascent of |J(point) - plane| ends: (B, *S), no graph."""
    height, slope = plane
    shape = (-1, *([1] * (x.dim() - 1)))
    size = (relative_step_size * threat.radius(x)).view(shape)
    point = start
    for _ in range(steps):
        with kept_randomness():
            there, steepness, _ = network.input_gradient(losses, point)
        with torch.no_grad():
            side = (there - height - ((point - x) * slope).flatten(1).sum(1)).sign()
            upward = side.view(shape) * (steepness - slope)
            point = balls.project(threat, x, point + size * balls.steepest(threat.norm, upward))
    return point
