"""Training on Gaussian noise, as randomised smoothing wants it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Network

BIBTEX = """@inproceedings{cohen2019certified,
  title = {Certified Adversarial Robustness via Randomized Smoothing},
  author = {Cohen, Jeremy and Rosenfeld, Elan and Kolter, J. Zico},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "gaussian_noise",
    version=1,
    source="Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918, Sec. 3.3",
    bibtex=BIBTEX,
    kind="certified",
    passes=lambda p: Passes(p["copies"], p["copies"]),
    neutral={"sigma": 0.0, "copies": 1},
    quick={"copies": 2},
)
def gaussian_noise(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    sigma: float = 0.25,
    copies: int = 1,
) -> Iterator[Term]:
    """Train on x + sigma * n, n standard normal; the noise is not clipped to the bounds.

    The network smoothed with the same sigma then has certificates in l2: certify it with ``smoothing``. Gilmer et al.
    2019 read the distance of errors in noise as that of adversarial examples, and train like this to push both away.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: not used.
        draws: random numbers of these samples in this epoch.
        step: not used.
        sigma: standard deviation of the noise in the units of the bounds, >= 0. Cohen et al.: 0.12 to 1; Gilmer et al.: 0.1
            and 0.4.
        copies: noisy copies of each sample, >= 1; the loss is their mean.

    Raises:
        InvalidValue: for a negative sigma, or no copies.

    Source: Cohen et al. 2019, arXiv:1902.02918, Sec. 3.3; Gilmer, Ford et al. 2019, arXiv:1901.10513, Sec. 6.
    """
    if not 0 <= sigma < float("inf") or copies < 1:
        raise InvalidValue(
            f"sigma={sigma} and copies={copies} were given",
            "a finite sigma >= 0 and one copy or more are allowed",
            "Write e.g. sigma = 0.25, copies = 1.",
        )
    total = x.new_zeros(len(x))
    for copy in range(copies):
        total = total + cross_entropy(network.logits(x + sigma * draws.normal(f"noise/{copy}", x)), y)
    yield Term(total / copies)
