"""Sets of networks that several claims look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustscope.claims.lab import Lab, Subject

Changes = Mapping[str, Mapping[str, Any]]

SIZES: Changes = {
    "4": {"model_parameters": {"hidden": [4]}},
    "8": {"model_parameters": {"hidden": [8]}},
    "16": {"model_parameters": {"hidden": [16]}},
    "64": {"model_parameters": {"hidden": [64]}},
    "256-256, short": {"model_parameters": {"hidden": [256, 256]}, "epochs": 5},
    "256-256": {"model_parameters": {"hidden": [256, 256]}},
}
"""Perceptrons from few hidden values to many, and one that was trained for a short time."""

SMALL: Changes = {name: SIZES[name] for name in ("8", "16", "64", "256-256, short")}
"""Some of them, for a quick look."""

WIDTHS: Changes = {
    f"width {width}": {"model": "small_cnn", "model_parameters": {"width": width}} for width in (2, 4, 8, 16, 32, 64)
}
"""Small convolutional networks of rising width, for pictures of any size."""


def standard(lab: Lab, seeds: int, **changes: Any) -> list[Subject]:
    """Return the user's networks, or else those of the standard objective, one for each seed."""
    if lab.setting.models:
        return lab.subjects()
    return [lab.network(seed, name=f"standard/{seed}", objective="standard", **changes) for seed in range(seeds)]


def family(lab: Lab, networks: Changes, seeds: int, **common: Any) -> list[Subject]:
    """Return the user's networks, or else each of some networks with each of some seeds.

    Args:
        lab: trains them.
        networks: name -> what of ``lab.network`` sets it apart.
        seeds: how many of each.
        **common: what they share, where they do not say otherwise.
    """
    if lab.setting.models:
        return lab.subjects()
    return [
        lab.network(seed, name=f"{name}/{seed}", **{**common, **how})
        for name, how in networks.items()
        for seed in range(seeds)
    ]
