"""ATDA: adversarial training that draws the outputs of clean and of adversarial samples together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training import distributed
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Mode, Network

BIBTEX = """@inproceedings{song2019improving,
  title = {Improving the Generalization of Adversarial Training with Domain Adaptation},
  author = {Song, Chuanbiao and He, Kun and Wang, Liwei and Hopcroft, John E.},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""


def mean_shift(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return ||mean z - mean z_adv||_1 / K, a scalar: maximum mean discrepancy with a linear kernel.

    Args:
        z, z_adv: (B, K), logits of clean and of adversarial samples.
    """
    return (z.mean(0) - z_adv.mean(0)).abs().mean()


def covariance_shift(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return ||C(z) - C(z_adv)||_1 / K^2, a scalar, C the covariance over the samples; 0 for a single sample.

    Args:
        z, z_adv: (B, K), logits of clean and of adversarial samples.

    Source: Song et al. 2019, arXiv:1810.00740, Eq. 3.

    Departures: the covariance is divided by B - 1, as in the paper; the published code does not divide, so that its term
        grows with the batch.
    """

    def covariance(values: Tensor) -> Tensor:
        centred = values - values.mean(0)
        return centred.T @ centred / max(len(values) - 1, 1)

    return (covariance(z) - covariance(z_adv)).abs().mean()


def centre_margin(z: Tensor, y: Tensor, centres: Tensor) -> Tensor:
    """Return the mean over the other classes n of softplus(||z - c_y||_1 - ||z - c_n||_1): (B,).

    Args:
        z: (B, K), logits.
        y: int64 (B,), true classes.
        centres: (K, K), one for each class; constants.
    """
    away = (z[:, None] - centres).abs().sum(2)
    own = away.gather(1, y[:, None])
    others = torch.ones_like(away).scatter(1, y[:, None], 0.0)
    return (F.softplus(own - away) * others).sum(1) / (len(centres) - 1)


def moved_centres(centres: Tensor, z: Tensor, y: Tensor, rate: float) -> Tensor:
    """Return c_k - rate * sum(c_k - z) / (1 + n_k), over the n_k samples of class k of all processes: (K, K).

    Args:
        centres: (K, K).
        z: (B, K), logits, clean and adversarial.
        y: int64 (B,), their true classes.
        rate: alpha, of the paper.
    """
    sums = torch.zeros_like(centres).index_add_(0, y, z.detach())
    counts = torch.bincount(y, minlength=len(centres)).to(centres)[:, None]
    distributed.add_up([sums, counts])
    return centres - rate * (counts * centres - sums) / (1 + counts)


@register(
    "atda",
    version=1,
    source="Song et al., 2019, arXiv:1810.00740, Alg. 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 2, p["steps"] + 2),
    known_failures={"couples_no_samples": "it compares the distributions of clean and adversarial logits in a batch"},
)
def atda(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    weight: float = 1 / 3,
    rate: float = 0.1,
    steps: int = 1,
    relative_step_size: float = 0.25,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on CE(x) + CE(x') + weight * (shift of means + shift of covariances + margin of centres), on the logits.

    Clean and adversarial samples are two domains: the first two parts draw their logits together whatever the class, the
    third draws both to the centre of their class and away from the others. The centres follow the logits slowly.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch.
        step: remembers the centres, zeros at first.
        weight: of the three parts, lambda; 1/3 in the paper.
        rate: of the centres, alpha; 0.1 in the paper.
        steps: 1 is FGSM against the network's own prediction, so that the true label does not leak into the sample; more
            is PGD against the true label, from a uniform point.
        relative_step_size: of PGD, as a fraction of epsilon; FGSM takes 1.
        mode: mode of the network while it is attacked.

    Raises:
        InvalidValue: for less than one step, or a negative weight.

    Source: Song, He, Wang, Hopcroft 2019, arXiv:1810.00740, Eq. 3-7 and Alg. 1; attacks from the published code.

    Departures: see :func:`covariance_shift`. The shifts couple the samples of a batch, the only objective here that does;
        several processes take them over their own rows each, so that they do not give quite what one process gives.
    """
    if steps < 1 or weight < 0:
        raise InvalidValue(
            f"steps={steps} and weight={weight} were given",
            "steps >= 1 and weight >= 0 are allowed",
            "The paper takes FGSM, which is steps = 1, and weight = 1/3.",
        )
    start = x if steps == 1 else random_point(x, threat, draws, "start")
    x_adv = ascend(
        network,
        x,
        threat,
        lambda logits: cross_entropy(logits, logits.argmax(1) if steps == 1 else y),
        start,
        steps=steps,
        relative_step_size=1.0 if steps == 1 else relative_step_size,
        mode=mode,
    )
    z, z_adv = network.logits(x), network.logits(x_adv)
    both, labels = torch.cat([z, z_adv]), torch.cat([y, y])
    remembered = step.remember("atda/centres", (z.shape[1], z.shape[1]), z.detach())
    mine = distributed.part(len(remembered))  # of the centres, which each process keeps a part of
    centres = torch.zeros_like(remembered)
    centres[mine] = remembered[mine]
    distributed.add_up([centres])
    shifts = mean_shift(z, z_adv) + covariance_shift(z, z_adv)
    margins = centre_margin(both, labels, centres).view(2, -1).mean(0)
    remembered[mine] = moved_centres(centres, both, labels, rate)[mine]
    yield Term(
        cross_entropy(z, y) + cross_entropy(z_adv, y) + weight * (shifts + margins),
        notes={"shifts": shifts.detach().expand(len(x)), "margin": margins.detach()},
    )
