"""Speckle noise, anew in each frame."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.sequences.cards import Constants, constant, of_difficulty, register
from robustscope.corruptions.sequences.compose import clean_first

SIGMA = {"imagenet-p": (0.05, 0.1, 0.15), "tiny-imagenet-p": (0.05, 0.1, 0.15), "cifar-10-p": (0.05, 0.07, 0.1)}


@register(
    "speckle_noise",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    noise=True,
    stochastic=True,
    validation=True,
)
def speckle_noise(x: Tensor, *, draws: Draws, difficulty: int = 1, constants: Constants = "auto") -> Tensor:
    """Show the picture, then 30 times the picture with noise that grows with the brightness: x + c x n.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: random numbers of the samples.
        difficulty: 1 to 3, from weak to strong noise.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W); the first frame is clean.

    Raises:
        InvalidValue: for unknown constants or another difficulty.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    sigma = of_difficulty(constant(SIGMA, constants, x), difficulty)
    return clean_first(x, [x + sigma * x * draws.normal(f"noise/{frame}", x) for frame in range(1, 31)])
