"""FAST: FGSM adversarial training from a random start."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{wong2020fast,
  title = {Fast is better than free: Revisiting adversarial training},
  author = {Wong, Eric and Rice, Leslie and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}"""


@register(
    "fast",
    version=1,
    source="Wong, Rice, Kolter, 2020, arXiv:2001.03994, Alg. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(2, 2),
    neutral={},
)
def fast(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    relative_step_size: float = 1.25,
    start_inside_bounds: bool = True,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on one steepest step from a uniform point of the ball, longer than the radius, projected back.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        relative_step_size: as a fraction of epsilon: 1.25 in the paper; 2 provokes catastrophic overfitting on CIFAR-10.
        start_inside_bounds: project the start on the bounds too, as the published code does on CIFAR-10. On MNIST it does
            not, and that matters: most values are 0, so that half of them would not move at all, and training overfits
            catastrophically at 0.3.
        mode: mode of the network while it is attacked; the published code says "train".

    Source: Wong, Rice, Kolter 2020, arXiv:2001.03994, Alg. 3 and Sec. 4.

    Departures: the network is attacked in evaluation mode unless ``mode`` says otherwise.
    """
    losses = partial(cross_entropy, y=y)
    start = random_point(x, threat, draws, "start", inside_bounds=start_inside_bounds)
    x_adv = ascend(network, x, threat, losses, start, steps=1, relative_step_size=relative_step_size, mode=mode)
    yield Term(losses(network.logits(x_adv)))
