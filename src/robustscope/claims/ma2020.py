"""Ma 2020: networks with more weights than the task needs are easier to fool."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab

BIBTEX = """@article{ma2021understanding,
  title = {Understanding adversarial attacks on deep learning based medical image analysis systems},
  author = {Ma, Xingjun and Niu, Yuhao and Gu, Lin and Wang, Yisen and Zhao, Yitian and Bailey, James and Lu, Feng},
  journal = {Pattern Recognition},
  volume = {110},
  pages = {107332},
  year = {2021},
  doi = {10.1016/j.patcog.2020.107332}
}"""


@register(
    "ma2020",
    version=1,
    source="Ma et al., 2020, arXiv:1907.10456, Sec. 5",
    bibtex=BIBTEX,
    topic="model bias",
    finding="Networks made for large data sets have far more weights than simpler tasks need, and that makes them easy to fool.",
    hypothesis="Of samples that networks of all widths classify correctly, the widest one keeps fewer under attack than the "
    "narrowest, both trained in the standard way.",
    rules=(
        Rule(
            "difference",
            "percentage points of the common samples that withstand, widest less narrowest",
            "below",
            -5.0,
            0.0,
        ),
    ),
    caveats="The source argues from the sharp loss of networks for ImageNet on medical pictures; here width alone "
    "changes, on digits, within a third of the radius. The narrowest networks are less accurate and pass "
    "nearer to the samples that they get right: up to 512 units a layer, more weights mean more margin.",
    cause=("model_parameters",),
    full={"widths": (8, 16, 32, 64), "model": "preact_resnet18", "samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"widths": (64, 128), "seeds": 2, "samples": 20, "epochs": 3},
)
def ma2020(
    lab: Lab,
    *,
    widths: Sequence[int] = (16, 64, 256, 512),
    model: str = "perceptron",
    radius: float = 1 / 3,
    seeds: int = 3,
    samples: int = 200,
    epochs: int = 60,
) -> Evidence:
    """Train networks of several widths, and attack the samples that all of them classify correctly.

    Args:
        lab: data, networks, measurements.
        widths: from narrow to wide; of both hidden layers of a perceptron, or the ``width`` of another architecture.
        model: architecture.
        radius: factor of the recipe's epsilon.
        seeds: networks of each width.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the difference between the widest and the narrowest.
    """
    batch, rows = lab.samples(samples), []
    threat = lab.threat.scaled(radius)
    for seed in range(seeds):
        networks = [
            lab.network(
                seed,
                objective="standard",
                epochs=epochs,
                model=model,
                model_parameters={"hidden": [width, width]} if model == "perceptron" else {"width": width},
            )
            for width in widths
        ]
        right = [lab.correct(network, batch) for network in networks]
        common = torch.stack(right).all(0)
        for width, network, mine in zip(widths, networks, right, strict=True):
            withstands = percent(lab.robust(network, batch, threat)[common])
            weights = sum(part.numel() for part in network.model.module.parameters())
            rows.append(
                {
                    "width": width,
                    "seed": seed,
                    "weights": weights,
                    "accuracy": percent(mine),
                    "common": int(common.sum()),
                    "withstands": withstands,
                }
            )
    narrowest, widest = (column(rows, "withstands", width=width) for width in (widths[0], widths[-1]))
    plots = (
        Plot("networks", "points", "width", "withstands", "seed", "Common samples that withstand attack, %", ("x",)),
        Plot("networks", "points", "width", "accuracy", "seed", "Accuracy, %", ("x",)),
    )
    return Evidence({"difference": difference(widest, narrowest)}, {"networks": rows}, plots)
