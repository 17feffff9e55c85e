"""Salt and pepper."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.numbers import sixteen
from robustscope.corruptions.tables import Constants, constant

SHARE = {
    "imagenet-c": (0.03, 0.06, 0.09, 0.17, 0.27),
    "tiny-imagenet-c": (0.01, 0.02, 0.05, 0.08, 0.14),
    "cifar-10-c": (0.01, 0.02, 0.03, 0.05, 0.07),
}


@register(
    "impulse_noise",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="noise",
    stochastic=True,
)
def impulse_noise(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Set a share of all values to 0 or 1, each as often, as faulty bits do.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; each contains the values of the one before.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    share = constant(SHARE, constants, x, severity)
    # One number decides whether and which, from both ends; beyond the threshold it moves any value out of [0, 1]. Sums
    # and clipping take a twentieth of the time of masks, which no processor can foretell.
    chance = sixteen(draws, "values", x).to(x.dtype).add_(0.5)
    return functional.softshrink(chance, 32767.5 - round(share * 32768)).add_(x).clamp_(0, 1)
