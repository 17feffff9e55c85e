"""Goodfellow 2018: where gradients are masked, CLEVER says that a network is far more robust than it is."""

from __future__ import annotations

from typing import Any

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import exact
from robustscope.claims.lab import Lab
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.goodfellow import needle, saturated, staircase
from robustscope.data.problems import Problem
from robustscope.estimates.compose import estimate
from robustscope.models.classifier import Classifier

BIBTEX = """@article{goodfellow2018gradient,
  title = {Gradient Masking Causes {CLEVER} to Overestimate Adversarial Perturbation Size},
  author = {Goodfellow, Ian},
  journal = {arXiv preprint arXiv:1804.07870},
  year = {2018}
}"""


@register(
    "goodfellow2018",
    version=1,
    source="Goodfellow, 2018, arXiv:1804.07870",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="An estimate of a lower bound is not a lower bound: gradients that vanish where they are sampled make CLEVER "
    "report perturbations larger than those that fool the network.",
    hypothesis="On networks with known radii, CLEVER exceeds the radius of each sample behind stairs, behind a saturated "
    "softmax and beside a needle, and meets it on the same network without a mask.",
    rules=(
        Rule("stairs", "estimate over the true radius, the least of the samples", "above", 1.1, 1.0),
        Rule("probabilities", "estimate over the true radius, the least of the samples", "above", 1.1, 1.0),
        Rule("needle", "estimate over the true radius", "above", 1.1, 1.0),
        Rule("logits", "estimate over the true radius without a mask, the largest of the samples", "below", 1.001, 1.1),
    ),
    caveats="Constructions with exact radii in the place of networks for pictures. Gradients that are exactly zero raise a "
    "warning in this package, which the paper's CLEVER has not.",
    data="",
    recipe="",
    quick={"batches": 10, "points": 10},
)
def goodfellow2018(lab: Lab, *, reach: float = 1.5, batches: int = 50, points: int = 50) -> Evidence:
    """Estimate radii of networks that mask their gradients, and compare them with the exact ones.

    Args:
        lab: not used, but for its seed.
        reach: radius of sampling over the true l2 radius of each sample; no score is larger.
        batches: maxima behind a score.
        points: gradients behind a maximum.

    Returns:
        Four effects, exact up to the points that are sampled.
    """
    smooth = saturated()
    problems = {
        "stairs": staircase(),
        "probabilities": smooth,
        "needle": needle(),
        "logits": Problem(smooth.module.get_submodule("network"), smooth.x, smooth.y, smooth.radius),
    }
    rows: list[dict[str, Any]] = []
    for name, problem in problems.items():
        model = Classifier(problem.module, allow_probabilities=True)
        draws = Draws(lab.setting.seed, tuple(range(len(problem.x))), f"claims/goodfellow2018/{name}")
        threat = ThreatModel("l2", tuple((reach * problem.radius["l2"]).tolist()), model.bounds)
        given: dict[str, Any] = {"batches": batches, "points": points}
        found = estimate("clever", model, problem.x, problem.y, threat, draws=draws, **given).radius
        for i, (score, true) in enumerate(zip(found.tolist(), problem.radius["l2"].tolist(), strict=True)):
            rows.append({"network": name, "sample": i, "radius": true, "estimate": score, "ratio": score / true})
    ratios = {name: [row["ratio"] for row in rows if row["network"] == name] for name in problems}
    effects = {name: exact(max(found) if name == "logits" else min(found)) for name, found in ratios.items()}
    plot = Plot("samples", "points", "radius", "estimate", "network", "CLEVER against the exact l2 radius")
    return Evidence(effects, {"samples": rows}, (plot,))
