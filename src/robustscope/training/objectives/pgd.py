"""PGD adversarial training, also called Madry's."""

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

BIBTEX = """@inproceedings{madry2018towards,
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""


@register(
    "pgd",
    version=1,
    source="Madry et al., 2018, arXiv:1706.06083, Sec. 2",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 1, p["steps"] + 1),
    neutral={},
    quick={"steps": 3},
)
def pgd(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    steps: int = 10,
    relative_step_size: float = 0.25,
    random_start: bool = True,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on the end of a PGD path: min over weights of the mean of max over the threat set of the cross-entropy.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        steps: of the attack, >= 0.
        relative_step_size: as a fraction of epsilon. Madry et al.: 2/8 on CIFAR-10; 0.01/0.3 in 40 steps on MNIST.
        random_start: start at a uniform point of the ball.
        mode: mode of the network while it is attacked; the published code says "train".

    Source: Madry et al. 2018, arXiv:1706.06083, Eq. 2.1 and Sec. 5.

    Departures: the network is attacked in evaluation mode unless ``mode`` says otherwise, so that only the samples that
        are trained on move the running statistics of batch norm.
    """
    start = random_point(x, threat, draws, "start") if random_start else x
    losses = partial(cross_entropy, y=y)
    x_adv = ascend(network, x, threat, losses, start, steps=steps, relative_step_size=relative_step_size, mode=mode)
    yield Term(losses(network.logits(x_adv)))
