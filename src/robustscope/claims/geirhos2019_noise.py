"""Geirhos 2019: training on pictures without texture makes networks more accurate under noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab
from robustscope.corruptions.compose import corrupt
from robustscope.data.datasets import load_data
from robustscope.probes.why.shape_bias import GEIRHOS


@register(
    "geirhos2019_noise",
    version=1,
    source="Geirhos et al., 2019, arXiv:1811.12231, Sec. 3.3",
    bibtex=GEIRHOS,
    topic="model bias",
    finding="Networks trained on pictures whose texture was taken away stay more accurate when noise is added.",
    hypothesis="Averaged over kinds and severities of noise, networks trained on pictures with random textures classify noisy "
    "pictures more accurately than networks trained on pictures whose texture tells the class.",
    rules=(Rule("gain", "percentage points of accuracy under noise, random over telling textures", "above", 5.0, 0.0),),
    caveats="The noisy pictures are of the kind that networks with telling textures were trained on, as in the "
    "source. Here these networks go by the shape too (geirhos2019_texture), so that random textures have "
    "little to change.",
    data="cue-digits:consistent",
    cause=("data",),
    full={"seeds": 3, "samples": 1000, "epochs": 60},
    full_recipe="cifar10-fast",
    quick={"severities": (3,), "seeds": 2, "samples": 40, "epochs": 1},
)
def geirhos2019_noise(
    lab: Lab,
    *,
    without: str = "cue-digits:random,shape#train",
    corruptions: Sequence[str] = ("gaussian_noise", "shot_noise", "impulse_noise"),
    severities: Sequence[int] = (1, 3, 5),
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    seeds: int = 5,
    samples: int = 300,
    epochs: int = 15,
) -> Evidence:
    """Train on telling and on random textures, and classify noisy pictures whose texture tells the class.

    Args:
        lab: data (whose texture tells the class), networks, measurements.
        without: source of training pictures whose texture says nothing.
        corruptions: kinds of noise.
        severities: 1 to 5.
        model: architecture.
        model_parameters: of the architecture.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the gain in accuracy under noise.
    """
    batch, rows = lab.samples(samples), []
    noisy = {
        (name, severity): replace(batch, x=corrupt(name, batch.x, severity, draws=lab.draws("noise", batch)))
        for name in corruptions
        for severity in severities
    }
    networks: dict[str, dict[str, Any]] = {"telling": {}, "random": {"data": load_data(without)}}
    common: dict[str, Any] = {"objective": "standard", "model": model, "model_parameters": model_parameters}
    for texture, how in networks.items():
        for seed in range(seeds):
            network = lab.network(seed, epochs=epochs, **common, **how)
            clean = percent(lab.correct(network, batch))
            for (name, severity), seen in noisy.items():
                row = {"texture": texture, "seed": seed, "noise": name, "severity": severity, "clean": clean}
                rows.append({**row, "accuracy": percent(lab.correct(network, seen))})

    def accuracies(texture: str) -> list[float]:
        return [float(column(rows, "accuracy", texture=texture, seed=seed).mean()) for seed in range(seeds)]

    plot = Plot("networks", "points", "severity", "accuracy", "texture", "Accuracy under noise, %")
    return Evidence({"gain": difference(accuracies("random"), accuracies("telling"))}, {"networks": rows}, (plot,))
