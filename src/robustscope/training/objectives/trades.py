"""TRADES: the cross-entropy of clean samples plus a divergence from their worst neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import ascend, divergence, near_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{zhang2019theoretically,
  title = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "trades",
    version=1,
    source="Zhang et al., 2019, arXiv:1901.08573, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 3, p["steps"] + 2) if p["beta"] else Passes(1, 1),
    neutral={"beta": 0.0},
    quick={"steps": 3},
)
def trades(
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
    """Train on CE(f(x), y) + beta * max over x' of KL(p(x) || p(x')): accuracy, and the same answer all around a sample.

    The divergence is maximised from a point next to the sample, for at the sample itself its gradient is zero. The
    outer gradient flows through both of its arguments.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: not used.
        beta: weight of the divergence, 1 / lambda in the paper; 6 on CIFAR-10, 1 on MNIST. 0 is standard training.
        steps: of the attack, >= 0.
        relative_step_size: as a fraction of epsilon. The published code: 0.007/0.031 on CIFAR-10; 0.01/0.3 in 40 steps
            on MNIST.
        mode: mode of the network while it is attacked.

    Raises:
        InvalidValue: for a negative beta.

    Source: Zhang et al. 2019, arXiv:1901.08573, Eq. 5 and Alg. 1; defaults of the published code.

    Departures: the prediction that the attack departs from is computed once, and the clean logits once more with a
        graph, for both parts of the loss; the published code runs the clean samples at each step of the attack and twice
        in the loss, so that dropout gives the two parts different masks. An l2 step has the length asked for, not
        2 * epsilon / steps. Re-implementations that divide the divergence by the number of classes need beta times that.
    """
    if beta < 0:
        raise InvalidValue(f"beta={beta} was given", "0 or more is allowed", "The paper takes 1 to 6.")
    if not beta:
        yield Term(cross_entropy(network.logits(x), y))
        return
    with torch.no_grad(), network.mode(mode):
        natural = network.logits(x)
    x_adv = ascend(
        network,
        x,
        threat,
        lambda logits: divergence(natural, logits),
        near_point(x, threat, draws, "start"),
        steps=steps,
        relative_step_size=relative_step_size,
        mode=mode,
    )
    logits = network.logits(x)
    clean, boundary = cross_entropy(logits, y), divergence(logits, network.logits(x_adv))
    yield Term(clean + beta * boundary, notes={"clean_loss": clean.detach(), "divergence": boundary.detach()})
