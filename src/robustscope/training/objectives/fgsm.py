"""FGSM adversarial training without a random start, mixed with clean samples if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import ascend
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{goodfellow2015explaining,
  title = {Explaining and Harnessing Adversarial Examples},
  author = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year = {2015}
}"""


@register(
    "fgsm",
    version=1,
    source="Goodfellow, Shlens, Szegedy, 2015, arXiv:1412.6572, Sec. 6",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(3, 3) if p["clean_share"] else Passes(2, 2),
    neutral={},
)
def fgsm(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    clean_share: float = 0.0,
    labels: Literal["true", "predicted"] = "true",
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on a * J(x) + (1 - a) * J(x + epsilon * sign(gradient)), the perturbation taken as a constant.

    It is the objective that overfits catastrophically: the network learns to bend the loss at x so that one step goes
    astray, while several find their way. Use ``fast`` to train, this one to see it happen.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: not used.
        step: not used.
        clean_share: a, the weight of the clean loss, from 0 (adversarial samples alone) to 1. The paper takes 0.5.
        labels: what the step leads away from: the true class, or the one predicted. With the true class the perturbation
            tells it, and a network may learn to read it there (label leaking).
        mode: mode of the network while it is attacked.

    Raises:
        InvalidValue: for a share outside [0, 1].

    Source: Goodfellow et al. 2015, arXiv:1412.6572, Sec. 6; label leaking: Kurakin, Goodfellow, Bengio 2017,
        arXiv:1611.01236, Sec. 4.

    Departures: trains on adversarial samples alone by default, as everyone has since Madry et al. 2018.
    """
    if not 0 <= clean_share <= 1:
        raise InvalidValue(f"clean_share={clean_share} was given", "0 to 1 is allowed", "The paper takes 0.5.")
    losses = partial(cross_entropy, y=y)
    away = losses if labels == "true" else lambda logits: cross_entropy(logits, logits.argmax(1))
    x_adv = ascend(network, x, threat, away, x, steps=1, relative_step_size=1.0, mode=mode)
    value = losses(network.logits(x_adv))
    if clean_share:
        value = clean_share * losses(network.logits(x)) + (1 - clean_share) * value
    yield Term(value)
