"""Weng 2018: with approximated derivatives CLEVER can be had for networks behind transformations without a gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustscope.claims._wrapped import seen
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.core.types import ThreatModel
from robustscope.defenses.apply import transformation
from robustscope.estimates.clever_second_order import BIBTEX
from robustscope.estimates.compose import estimate
from robustscope.models.defended import defend


@register(
    "weng2018_bpda",
    version=1,
    source="Weng et al., 2018, arXiv:1810.08640, Sec. III",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="With the derivative of a transformation approximated by the identity, CLEVER gives sensible scores for "
    "networks behind bit-depth reduction or JPEG compression, which gradient masking would spoil.",
    hypothesis="Behind a reduction of bits CLEVER is far above the score of the bare network; through the approximation it "
    "comes back to it, and lies below the nearest adversarial example found.",
    rules=(
        Rule("masked", "score over that of the bare network, median of samples, mean over networks", "above", 1.5, 1.0),
        Rule("repaired", "percent by which the score through the approximation is off, median", "below", 10.0, 25.0),
        Rule("below_the_attack", "percent of the samples of a network, mean over networks", "above", 90.0, 50.0),
    ),
    caveats="A score through an approximation is an estimate of the bare network rather than of the defended one.",
    full={"samples": 100, "radius": 5.0, "batches": 100, "points": 100},
    quick={"samples": 15, "batches": 5, "points": 10, "epochs": 2, "seeds": 2},
)
def weng2018_bpda(
    lab: Lab,
    *,
    depth: int = 3,
    samples: int = 60,
    seeds: int = 3,
    radius: float = 2.0,
    batches: int = 50,
    points: int = 50,
    epochs: int = 60,
) -> Evidence:
    """Estimate radii of standard networks, bare and behind fewer bits, with the true and the approximate derivative.

    Args:
        lab: data, networks, measurements.
        depth: bits that are left.
        samples: test samples; those that a network has right bare and defended count.
        seeds: networks.
        radius: l2 radius of sampling, the largest score.
        batches: maxima behind a score.
        points: gradients behind a maximum.
        epochs: of each training.

    Returns:
        Three effects across networks.
    """
    batch, threat = lab.samples(samples), ThreatModel("l2", radius, lab.threat.bounds)
    front = transformation("bit_depth", depth=depth, bounds=lab.threat.bounds)

    def score(subject: Subject, part: Batch) -> Tensor:
        lab.tell(f"estimating radii of {subject.name}")
        draws = lab.draws("clever", part)
        given: dict[str, Any] = {"batches": batches, "points": points, "rivals": 3}
        return estimate("clever", subject.model, part.x, part.y, threat, draws=draws, **given).radius

    rows = []
    for seed in range(seeds):
        bare = lab.network(seed, objective="standard", epochs=epochs)
        hidden = seen("hidden", defend(bare.model, front, approximate=False))
        through = seen("through", defend(bare.model, front))
        right = lab.correct(bare, batch) & lab.correct(through, batch)
        scores = {one.name: score(one, batch)[right] for one in (bare, hidden, through)}
        distance = lab.distance(through, batch)[right].double()
        off = (scores["through"] / scores["standard"] - 1).abs()
        rows.append(
            {
                "seed": seed,
                "samples": int(right.sum()),
                **{f"score_{name}": float(values.median()) for name, values in scores.items()},
                "distance": float(distance.median()),
                "masked": float((scores["hidden"] / scores["standard"]).median()),
                "repaired": 100 * float(off.median()),
                "below_the_attack": percent(scores["through"] <= distance),
            }
        )
    effects = {name: mean(column(rows, name)) for name in ("masked", "repaired", "below_the_attack")}
    plot = Plot("networks", "points", "score_standard", "score_through", "seed", "Median scores, l2")
    return Evidence(effects, {"networks": rows}, (plot,))
