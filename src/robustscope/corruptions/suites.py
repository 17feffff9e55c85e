"""Which corruptions, at which severities, make up a benchmark."""

from __future__ import annotations

from collections.abc import Mapping

IMAGENET_C = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen test corruptions, in the order of the paper's tables."""

IMAGENET_C_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four validation corruptions."""

MNIST_C = {
    "shot_noise": 5,
    "impulse_noise": 4,
    "glass_blur": 1,
    "motion_blur": 1,
    "shear": 2,
    "scale": 3,
    "rotate": 2,
    "brightness": 5,
    "translate": 3,
    "stripe": 1,
    "fog": 5,
    "spatter": 4,
    "dotted_line": 1,
    "zigzag": 1,
    "canny_edges": 1,
}
"""The fifteen corruptions of MNIST-C, each at the one severity that was published."""

SUITES: Mapping[str, tuple[tuple[str, int], ...]] = {
    "imagenet-c": tuple((name, severity) for name in IMAGENET_C for severity in range(1, 6)),
    "imagenet-c-extra": tuple((name, severity) for name in IMAGENET_C_EXTRA for severity in range(1, 6)),
    "mnist-c": tuple(MNIST_C.items()),
}
"""Benchmark -> its (corruption, severity); CIFAR-10-C and Tiny ImageNet-C are "imagenet-c" at their own constants."""
