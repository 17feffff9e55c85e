"""How smooth the kernels of the first convolution are, and a network with smoother ones."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Ledger, ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.frequency import WANG


def _kernels(module: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a network whose kernels are larger than one pixel, in the order of registration."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1]


def roughness(kernel: Tensor) -> float:
    """Return the mean squared difference of neighbours over the mean square of a weight (out, in, h, w).

    0 for constant kernels, 2 on average for independent weights of mean 0, 4 for chequers; the scale does not matter. NaN for
    kernels of zeros.
    """
    weight = kernel.detach().double()
    steps = [weight.diff(dim=axis).flatten() for axis in (-2, -1)]
    size = weight.square().mean()
    return float(torch.cat(steps).square().mean() / size) if size > 0 else math.nan


def smooth_kernels(model: Classifier, rho: float) -> Classifier:
    """Return a copy of a network to each of whose weights ``rho`` times its eight neighbours in the kernel is added.

    Args:
        model: the network; all convolutions larger than one pixel are smoothed, weights beyond the edge are those at it.
        rho: >= 0; 0 changes nothing, 1 sums nine weights.

    Raises:
        InvalidValue: for a rho that is negative or not finite.

    Source: Wang et al., 2020, arXiv:1905.13545, Sec. 6.
    """
    if not 0 <= rho < math.inf:
        raise InvalidValue(f"rho={rho!r} was given", "a finite number >= 0 is allowed", "0 changes nothing.")
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for part in _kernels(module):
            height, width = part.weight.shape[-2:]
            wide = F.pad(part.weight, (1, 1, 1, 1), mode="replicate")
            around = sum(wide[..., i : i + height, j : j + width] for i in range(3) for j in range(3))
            part.weight.copy_((1 - rho) * part.weight + rho * around)
    return replace(model, module=module, ledger=Ledger())


@register(
    "kernel_smoothness",
    version=1,
    source="Wang et al., 2020, arXiv:1905.13545, Sec. 6 (the observation; the figure is ours)",
    bibtex=WANG,
    figures={
        "kernel_roughness": "mean squared difference of neighbouring weights over their mean square, in the first convolution "
        "larger than one pixel: 0 constant, 2 independent, 4 chequers"
    },
    robust={"kernel_roughness": "lower"},
    access="weights",
)
def kernel_smoothness(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws) -> Findings:
    """Measure how smooth the first kernels are: smooth ones cannot see high frequencies.

    Args:
        model: a network; nothing is sent through it.
        x, y, threat, draws: unused.

    Returns:
        The figure ``kernel_roughness``.

    Raises:
        InvalidValue: for a network without a convolution larger than one pixel, or one of zeros.

    Source: Wang et al., 2020, arXiv:1905.13545, Sec. 6, who show kernels of standard and adversarially trained networks.
    """
    first = next(iter(_kernels(model.module)), None)
    if first is None or not bool((first.weight != 0).any()):
        raise InvalidValue(
            f"a {type(model.module).__name__} without a convolution kernel was given",
            "a network with one larger than a pixel, not all zero, is allowed",
            "Leave this probe out.",
        )
    return Findings(figures={"kernel_roughness": roughness(first.weight)})
