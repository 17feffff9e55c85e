"""Shot noise, anew in each frame."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.counts import has_rest, poisson
from robustscope.corruptions.sequences.cards import Constants, constant, of_difficulty, register
from robustscope.corruptions.sequences.compose import clean_first

COUNTS = {"imagenet-p": (300, 120, 60), "tiny-imagenet-p": (500, 250, 125), "cifar-10-p": (700, 400, 200)}


@register(
    "shot_noise",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    noise=True,
    stochastic=True,
)
def shot_noise(x: Tensor, *, draws: Draws, difficulty: int = 1, constants: Constants = "auto") -> Tensor:
    """Show the picture, then 30 times the picture counted in photons.

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
    count, rest = of_difficulty(constant(COUNTS, constants, x), difficulty), has_rest(x)
    frames = []
    for frame in range(1, 31):
        uniform = draws.uniform(f"counts/{frame}", x, 0.0, 1.0)
        more = draws.uniform(f"counts/{frame}/between levels", x, 0.0, 1.0) if rest else None
        frames.append(poisson(x, float(count), uniform, more) / count)
    return clean_first(x, frames)
