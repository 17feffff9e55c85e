"""The card of a corruption, and the registry of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustscope.core.registry import Card, Registry

Family = Literal["noise", "blur", "weather", "digital", "geometric", "drawing"]

HENDRYCKS = """@inproceedings{hendrycks2019benchmarking,
  title = {Benchmarking Neural Network Robustness to Common Corruptions and Perturbations},
  author = {Hendrycks, Dan and Dietterich, Thomas},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""

MU = """@article{mu2019mnist,
  title = {{MNIST-C}: A Robustness Benchmark for Computer Vision},
  author = {Mu, Norman and Gilmer, Justin},
  journal = {arXiv preprint arXiv:1906.02337},
  year = {2019}
}"""


@dataclass(frozen=True)
class CorruptionCard(Card):
    """What a corruption says about itself.

    The function has the form ``(x (B, C, H, W), severity, *, draws, ...) -> (B, C, H, W)`` on values in [0, 1]; its
    hyper-parameters are its keyword-only arguments with a default.

    Args:
        family: what kind of corruption it is.
        stochastic: whether it draws random numbers.
        channels: numbers of channels that it is defined for; None means any.
        severities: the largest severity; 1 for a corruption of one strength.
        constants: benchmarks for which the sources give constants of their own.
        levels: whether all that it returns lies on 256 levels, so that the door need not bring it there.
        quick: hyper-parameters for the checks.
    """

    family: Family = "noise"
    stochastic: bool = False
    channels: tuple[int, ...] | None = None
    severities: int = 5
    constants: tuple[str, ...] = ("imagenet-c", "tiny-imagenet-c", "cifar-10-c", "mnist-c")
    levels: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)


CORRUPTIONS: Registry[CorruptionCard] = Registry("corruption", CorruptionCard)
register = CORRUPTIONS.register
