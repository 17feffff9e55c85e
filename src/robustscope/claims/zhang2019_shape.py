"""Zhang and Zhu 2019: adversarially trained networks look at shapes, standard ones at textures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.saturation import ZHANG


@register(
    "zhang2019_shape",
    version=2,
    source="Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2",
    bibtex=ZHANG,
    topic="model bias",
    finding="Adversarially trained convolutional networks are biased towards global shape and standard ones towards texture: "
    "tiles in another order hurt the former more, pictures without texture the latter.",
    hypothesis="Of the samples that it classifies correctly, an adversarially trained network keeps fewer than a standard one "
    "when tiles are shuffled, and more when the texture is taken away.",
    rules=(
        Rule("shuffled", "percentage points kept with shuffled tiles, standard over adversarial", "above", 5.0, 0.0),
        Rule("without_texture", "percentage points kept without texture, adversarial over standard", "above", 5.0, 0.0),
    ),
    caveats="Digits filled with stripes; pictures without texture keep their phases and get one amplitude spectrum, "
    "where the source stylises. The standard network goes by the shape here too (geirhos2019_texture): "
    "shuffled tiles leave either kind less than a quarter, and only the second half of the finding can be "
    "seen.",
    data="cue-digits:consistent",
    cause=("objective", "epsilon_ramp"),
    full={"objective": "pgd", "model": "preact_resnet18", "model_parameters": {}, "grids": (2, 4, 8), "samples": 1000},
    quick={"grids": (2,), "seeds": 2, "samples": 40, "epochs": 1},
)
def zhang2019_shape(
    lab: Lab,
    *,
    objective: str = "fast",
    epsilon_ramp: float = 0.5,
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    grids: Sequence[int] = (2, 4),
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 15,
) -> Evidence:
    """Train networks in the standard way and adversarially, and show them pictures without shape and without texture.

    Args:
        lab: data, networks, measurements.
        objective: of adversarial training.
        epsilon_ramp: share of adversarial training in which epsilon rises to its value.
        model: architecture.
        model_parameters: of the architecture.
        grids: sides of the grids of tiles, each divides height and width.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the differences in what is kept with shuffled tiles and without texture.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        tiles = lab.find("patch_shuffle", subject, batch, grids=grids).columns["shuffled_kept"]
        texture = lab.find("texture_removed", subject, batch).columns["without_texture"]
        black_and_white = lab.find("saturation", subject, batch, levels=(1024.0,)).columns["saturated_kept"]
        return {
            "accuracy": percent(lab.correct(subject, batch)),
            "shuffled_kept": 100 * float(tiles.nanmean()),
            "without_texture_kept": 100 * float(texture.nanmean()),
            "saturated_kept": 100 * float(black_and_white.nanmean()),
        }

    networks = {
        "standard": {"objective": "standard"},
        "adversarial": {"objective": objective, "epsilon_ramp": epsilon_ramp},
    }
    common = {"model": model, "model_parameters": model_parameters, "epochs": epochs}
    rows = lab.table(networks, seeds, measure, **common)
    names = ("shuffled_kept", "without_texture_kept")
    kept = {(kind, name): column(rows, name, network=kind) for kind in networks for name in names}
    effects = {
        "shuffled": difference(kept["standard", names[0]], kept["adversarial", names[0]]),
        "without_texture": difference(kept["adversarial", names[1]], kept["standard", names[1]]),
    }
    plot = Plot("networks", "points", *names, "network", "Correctly classified samples that stay so, %")
    return Evidence(effects, {"networks": rows}, (plot,))
