"""Gu 2019: small natural changes between the frames of a video turn right predictions into wrong ones."""

from __future__ import annotations

from typing import cast

from robustscope.analyses.video import video_summary
from robustscope.claims._family import standard
from robustscope.claims._videos import judged, videos
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean
from robustscope.claims.lab import Lab

BIBTEX = """@article{gu2019using,
  title = {Using Videos to Evaluate Image Model Robustness},
  author = {Gu, Keren and Yang, Brandon and Ngiam, Jiquan and Le, Quoc and Shlens, Jonathon},
  journal = {arXiv preprint arXiv:1904.10076},
  year = {2019}
}"""


@register(
    "gu2019",
    version=1,
    source="Gu et al., 2019, arXiv:1904.10076, Sec. 4",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="Networks that are right on a frame are often wrong on frames shortly after it, and these natural changes are "
    "larger than adversarial perturbations are allowed to be.",
    hypothesis="Standard networks that are right on the middle frame of a short video are wrong on several percent of the "
    "frames around it, and nearly all of these lie outside the radius of the threat model.",
    rules=(
        Rule("wrong_beside_right", "percent of frames at most k away, given a right anchor", "above", 3.0, 0.5),
        Rule("beyond_the_radius", "percent of the wrong frames further in linf than epsilon", "above", 90.0, 50.0),
    ),
    caveats="Videos are made from pictures by the motions of ImageNet-P (light, rotation, tilt), in the place of tracks of "
    "objects in films. On pictures of 8 pixels these change few predictions, and the radius of 0.15 is a large one: one "
    "wrong frame in ten lies inside it.",
    takes_models=True,
    full={"samples": 1000},
    quick={"samples": 30, "seeds": 2, "epochs": 2},
)
def gu2019(lab: Lab, *, k: int = 10, samples: int = 300, seeds: int = 3, epochs: int = 60) -> Evidence:
    """Make videos of test samples; measure networks on the frames around anchors that they have right.

    Args:
        lab: data, networks, measurements.
        k: frames before and after the anchor.
        samples: anchors.
        seeds: networks.
        epochs: of each training.

    Returns:
        Two effects across networks, each a mean over motions.
    """
    batch, epsilon = lab.samples(samples), cast(float, lab.threat.epsilon)
    films = videos(lab, batch)
    rows, curve = [], []
    for subject in standard(lab, seeds, epochs=epochs):
        pairs, brittle, beyond = 0, 0, 0.0
        for motion, frames in films.items():
            found = video_summary(judged(subject, frames), k, "anchor", epsilon=epsilon)
            near = [row for row in found["conditional"] if row["distance"] <= k]
            pairs += sum(row["n"] for row in near)
            brittle += found["brittle"]["pairs"]
            beyond += found["brittle"]["pairs"] * (found["brittle"]["beyond"] or 0.0)
            curve += [
                {
                    "network": subject.name,
                    "motion": motion,
                    "distance": row["distance"],
                    "accuracy": 100 * row["value"],
                }
                for row in near
            ]
        rows.append(
            {
                "network": subject.name,
                "pairs": pairs,
                "brittle": brittle,
                "wrong": 100 * brittle / pairs,
                "beyond": 100 * beyond / max(brittle, 1),
            }
        )
    effects = {"wrong_beside_right": mean(column(rows, "wrong")), "beyond_the_radius": mean(column(rows, "beyond"))}
    plot = Plot("frames", "points", "distance", "accuracy", "motion", "Accuracy given a right anchor, percent")
    return Evidence(effects, {"networks": rows, "frames": curve}, (plot,))
