"""Gaussian blur."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.filters import gaussian
from robustscope.corruptions.tables import Constants, benchmark, constant

SIGMA = {
    "imagenet-c": (1.0, 2.0, 3.0, 4.0, 6.0),
    "tiny-imagenet-c": (0.5, 0.75, 1.0, 1.25, 1.5),
    "cifar-10-c": (0.4, 0.6, 0.7, 0.8, 1.0),
}


def legacy_axes(constants: Constants, x: Tensor) -> tuple[int, ...]:
    """Return the axes that the programs of a benchmark blur: MNIST-C took the columns of a grey picture for channels."""
    return (-2,) if benchmark(constants, x) == "mnist-c" else (-2, -1)


@register(
    "gaussian_blur",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Appendix B",
    bibtex=HENDRYCKS,
    family="blur",
)
def gaussian_blur(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur by a Gaussian of 4 standard deviations' radius; the last pixels continue outside.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures. With "mnist-c" only
            columns are blurred, as in that benchmark.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Appendix B; constants of the authors' programs.
    """
    return gaussian(x, constant(SIGMA, constants, x, severity), axes=legacy_axes(constants, x))
