"""Gaussian noise on every value."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.defenses.cards import register

BIBTEX = """@inproceedings{cohen2019certified,
  title = {Certified Adversarial Robustness via Randomized Smoothing},
  author = {Cohen, Jeremy and Rosenfeld, Elan and Kolter, Zico},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "gaussian_noise",
    version=1,
    source="Cohen et al., 2019, arXiv:1902.02918, Sec. 3",
    bibtex=BIBTEX,
    stochastic=True,
    backward="exact",
    stays_in_bounds=False,
    draws=100,
)
def gaussian_noise(x: Tensor, *, draws: Draws, bounds: Bounds, sigma: float = 0.25) -> Tensor:
    """Add independent Gaussian noise to every value.

    Args:
        x: (B, *S), inside the bounds.
        draws: the noise.
        bounds: valid range of every input value; the noise may leave it.
        sigma: standard deviation of the noise, in the units of the bounds, > 0.

    Returns:
        (B, *S), not clipped.

    Raises:
        InvalidValue: for a standard deviation that is not above zero.

    Source: Cohen et al. 2019, arXiv:1902.02918, Sec. 3; with few draws it is an empirical defence without a certificate.
    """
    if not 0 < sigma < float("inf"):
        raise InvalidValue(f"sigma={sigma} was given", "a finite number > 0 is allowed", "Correct sigma.")
    return x + sigma * draws.normal("noise", x)
