"""Tramèr 2020: defences that stand against attacks made without knowing them fall to attacks adapted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustscope.attacks.comparison import Defence, Line, compare
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Lab
from robustscope.defenses.apply import transformation
from robustscope.defenses.quilting import patch_database
from robustscope.models.defended import Transformation

BIBTEX = """@inproceedings{tramer2020adaptive,
  title = {On Adaptive Attacks to Adversarial Example Defenses},
  author = {Tram{\\`e}r, Florian and Carlini, Nicholas and Brendel, Wieland and M{\\k{a}}dry, Aleksander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""
DEFENCES: Mapping[str, Mapping[str, Any]] = {
    "bit_depth": {"depth": 3},
    "jpeg": {"quality": 75},
    "gaussian_noise": {"sigma": 0.25},
    "crop_rescale": {"share": 0.875},
    "quilting": {},
    "tv_minimisation": {"iterations": 15},
}
"""Transformations of the input, with their settings."""


@register(
    "tramer2020",
    version=1,
    source="Tramèr et al., 2020, arXiv:2002.08347, Sec. 3",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="Thirteen published defences were circumvented by attacks adapted to each of them; that a defence withstands "
    "attacks not made for it says little.",
    hypothesis="Transformations of the input before a standard network withstand an attack on the bare network, and lose "
    "nearly all that they seemed to add once the attack knows them.",
    rules=(
        Rule("lost_to_adapted_attacks", "percentage points of robust accuracy, mean over defences", "above", 10.0, 2.0),
        Rule(
            "left_over_the_bare_network", "percentage points of robust accuracy, mean over defences", "below", 5.0, 10.0
        ),
    ),
    caveats="Transformations of Guo et al. instead of the thirteen defences. The adapted attacks are PGD through each "
    "transformation or its approximation, over draws, and Square; stronger ones would leave less. What is left is quilting, which the identity "
    "approximates badly; few samples and networks leave the interval wide.",
    full={"defences": tuple(DEFENCES), "samples": 200, "queries": 5000},
    quick={"defences": ("bit_depth", "gaussian_noise"), "seeds": 2, "samples": 15, "queries": 20, "epochs": 2},
)
def tramer2020(
    lab: Lab,
    *,
    defences: Sequence[str] = ("bit_depth", "jpeg", "gaussian_noise", "crop_rescale", "quilting"),
    seeds: int = 3,
    samples: int = 30,
    queries: int = 200,
    epochs: int = 60,
) -> Evidence:
    """Put transformations in front of standard networks; attack each without and with knowledge of it.

    Args:
        lab: data, networks, measurements.
        defences: names of transformations of ``DEFENCES``.
        seeds: networks.
        samples: test samples that are attacked.
        queries: of Square, beside PGD with 20 steps on the margin.
        epochs: of each training.

    Returns:
        Two effects: means over the defences, across networks.
    """
    batch = lab.samples(samples)
    fronts = {name: _front(lab, name) for name in defences}
    attacks = (("pgd", {"steps": 20, "loss": "margin"}), ("square", {"queries": queries}))
    rows = []
    for seed in range(seeds):
        network = lab.network(seed, objective="standard", epochs=epochs).model
        subjects = {"none": Defence(network)}
        subjects |= {name: Defence(network, front, verdict_draws=8) for name, front in fronts.items()}
        lines = compare(subjects, batch.x, batch.y, lab.threat, attacks=attacks, gradient_draws=8, seed=seed)
        rows += [{"seed": seed, **_row(name, [line for line in lines if line.defence == name])} for name in subjects]
    behind = [row for row in rows if row["defence"] != "none"]
    lost, left = [], []
    for seed in range(seeds):
        adapted = column(behind, "adapted", seed=seed)
        lost.append((column(behind, "oblivious", seed=seed) - adapted).mean())
        left.append(adapted.mean() - column(rows, "adapted", seed=seed, defence="none")[0])
    effects = {"lost_to_adapted_attacks": mean(lost), "left_over_the_bare_network": mean(left)}
    plot = Plot("defences", "points", "oblivious", "adapted", "defence", "Robust accuracy, percent")
    return Evidence(effects, {"defences": rows}, (plot,))


def _front(lab: Lab, name: str) -> Transformation:
    data: dict[str, Any] = {}
    if name == "quilting":
        known = lab.samples(1000, "train").x
        data["patches"] = patch_database(known, patch=5, count=1000, seed=lab.setting.seed)
    return transformation(name, bounds=lab.threat.bounds, **DEFENCES[name], **data)


def _row(name: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Return accuracy, and what is left without knowledge and in the worst case over all attacks, in percent."""
    blind = [line.robust for line in lines if line.view == "oblivious"] or [line.robust for line in lines]
    left = {
        "clean": lines[0].clean,
        "oblivious": torch.stack(blind).all(0),
        "adapted": torch.stack([line.robust for line in lines]).all(0),
    }
    return {"defence": name, **{key: percent(mask) for key, mask in left.items()}}
