"""Wang 2020: robust networks have smooth kernels, and smoothing kernels makes networks a little more robust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.frequency import WANG
from robustscope.probes.why.kernel_smoothness import smooth_kernels


@register(
    "wang2020_kernels",
    version=1,
    source="Wang et al., 2020, arXiv:1905.13545, Sec. 6",
    bibtex=WANG,
    topic="local smoothness",
    finding="Kernels of adversarially trained convolutional networks are smoother than those of standard ones, and smoothing the "
    "kernels of a standard network makes it a little more robust.",
    hypothesis="Neighbouring weights of first kernels differ less after adversarial than after standard training, and standard "
    "networks whose kernels are smoothed withstand attacks on more samples.",
    rules=(
        Rule(
            "roughness",
            "mean squared difference of neighbours over mean square, standard less adversarial",
            "above",
            0.2,
            0,
        ),
        Rule(
            "gain", "percentage points of robust accuracy that smoothing brings to standard networks", "above", 1.0, 0.0
        ),
    ),
    caveats="Kernels are smoothed without training again. The small network has no batch norm and few kernels: "
    "smoothing them costs it 10 to 45 points of accuracy, which no gain outweighs. Judged within a third of "
    "the radius, for beyond it standard networks keep next to nothing.",
    cause=("objective",),
    full={"model": "preact_resnet18", "model_parameters": {}, "radius": 1 / 8, "samples": 1000, "epochs": 200},
    quick={"seeds": 2, "samples": 15, "epochs": 1},
)
def wang2020_kernels(
    lab: Lab,
    *,
    rho: float = 0.2,
    objective: str = "pgd",
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    radius: float = 1 / 3,
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 30,
) -> Evidence:
    """Compare kernels of networks trained in both ways, then smooth those of the standard ones and attack both versions.

    Args:
        lab: data, networks, measurements.
        rho: share of its eight neighbours that is added to each weight.
        objective: of adversarial training.
        model: architecture with convolutions.
        model_parameters: of the architecture.
        radius: factor of the recipe's epsilon at which robustness is judged.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the difference in roughness, and the gain in robust accuracy.
    """
    batch, threat = lab.samples(samples), lab.threat.scaled(radius)

    def row(kind: str, seed: int, network: Subject) -> dict[str, Any]:
        found = {
            "roughness": lab.find("kernel_smoothness", network, batch).figures["kernel_roughness"],
            "accuracy": percent(lab.correct(network, batch)),
            "robust": percent(lab.robust(network, batch, threat)),
        }
        return {"network": kind, "seed": seed, **found}

    rows: list[dict[str, Any]] = []
    common: dict[str, Any] = {"model": model, "model_parameters": model_parameters, "epochs": epochs}
    for seed in range(seeds):
        standard = lab.network(seed, objective="standard", **common)
        smoothed = smooth_kernels(standard.model, rho)
        rows += [
            row("standard", seed, standard),
            row("smoothed", seed, replace(standard, model=smoothed, fingerprint=f"{standard.fingerprint}, rho={rho}")),
            row("adversarial", seed, lab.network(seed, objective=objective, **common)),
        ]

    def of(name: str, kind: str) -> Any:
        return column(rows, name, network=kind)

    effects = {
        "roughness": difference(of("roughness", "standard"), of("roughness", "adversarial")),
        "gain": difference(of("robust", "smoothed"), of("robust", "standard")),
    }
    plot = Plot("networks", "points", "roughness", "robust", "network", "Robust accuracy against roughness of kernels")
    return Evidence(effects, {"networks": rows}, (plot,))
