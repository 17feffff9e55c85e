"""Shankar 2019: networks are much worse on the worst of some neighbouring frames than on a frame."""

from __future__ import annotations

from robustscope.analyses.video import pm_accuracy
from robustscope.claims._family import standard
from robustscope.claims._videos import judged, videos
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean
from robustscope.claims.lab import Lab

BIBTEX = """@inproceedings{shankar2021image,
  title = {Do Image Classifiers Generalize Across Time?},
  author = {Shankar, Vaishaal and Dave, Achal and Roelofs, Rebecca and Ramanan, Deva and Recht, Benjamin and Schmidt, Ludwig},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2021}
}"""


@register(
    "shankar2019",
    version=1,
    source="Shankar et al., 2019, arXiv:1906.02168, Sec. 4",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="Over 45 networks, accuracy on the worst of the similar frames around an anchor is a median of 16 and 10 points "
    "below the accuracy on the anchor, on two sets of videos.",
    hypothesis="On short videos made of test samples, pm-10 accuracy of standard networks is several points below their "
    "accuracy on the anchors, and falls further the more frames count.",
    rules=(
        Rule("drop", "percentage points from the anchor to pm-10, mean over motions", "above", 5.0, 1.0),
        Rule("later_drop", "percentage points from half of the frames to all, mean over motions", "above", 1.0, 0.0),
    ),
    caveats="Videos are made from pictures by the motions of ImageNet-P (light, rotation, tilt); nobody reviewed whether "
    "frames are similar.",
    takes_models=True,
    full={"samples": 1000},
    quick={"samples": 30, "seeds": 2, "epochs": 2},
)
def shankar2019(lab: Lab, *, k: int = 10, samples: int = 300, seeds: int = 3, epochs: int = 60) -> Evidence:
    """Make videos of test samples; compare accuracy on anchors with accuracy on the worst frame around them.

    Args:
        lab: data, networks, measurements.
        k: frames before and after the anchor.
        samples: anchors.
        seeds: networks.
        epochs: of each training.

    Returns:
        Two effects across networks, each a mean over motions.
    """
    films = videos(lab, lab.samples(samples))
    curve = []
    for subject in standard(lab, seeds, epochs=epochs):
        for motion, frames in films.items():
            rows = judged(subject, frames)
            for j in range(k + 1):
                value = 100 * pm_accuracy(rows, j)["value"]
                curve.append({"network": subject.name, "motion": motion, "k": j, "accuracy": value})
    names = list(dict.fromkeys(row["network"] for row in curve))
    at = {j: [float(column(curve, "accuracy", network=name, k=j).mean()) for name in names] for j in (0, k // 2, k)}
    table = [
        {"network": name, "anchor": first, "half": half, "all": last}
        for name, first, half, last in zip(names, at[0], at[k // 2], at[k], strict=True)
    ]
    effects = {
        "drop": mean(column(table, "anchor") - column(table, "all")),
        "later_drop": mean(column(table, "half") - column(table, "all")),
    }
    plot = Plot("curves", "points", "k", "accuracy", "motion", "pm-k accuracy, percent")
    return Evidence(effects, {"networks": table, "curves": curve}, (plot,))
