"""Su 2018: across networks, the perturbation that fools them shrinks linearly with the logarithm of their error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from robustscope.analyses.pareto import frontier, log_linear_fit, objections
from robustscope.claims._family import SIZES, SMALL, WIDTHS, family
from robustscope.claims.cards import Effect, Evidence, Plot, Rule, register
from robustscope.claims.effects import correlation, exact
from robustscope.claims.lab import Lab

BIBTEX = """@inproceedings{su2018robustness,
  title = {Is Robustness the Cost of Accuracy? -- A Comprehensive Study on the Robustness of 18 Deep Image Classification Models},
  author = {Su, Dong and Zhang, Huan and Chen, Hongge and Yi, Jinfeng and Chen, Pin-Yu and Gao, Yupeng},
  booktitle = {European Conference on Computer Vision},
  year = {2018}
}"""


@register(
    "su2018",
    version=1,
    source="Su et al., 2018, arXiv:1808.01688, Sec. 4.2",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Over 18 networks for ImageNet, the distortion that attacks need falls linearly with the logarithm of the "
    "top-1 error: better networks are easier to fool.",
    hypothesis="Across standard networks of rising size, the mean distance to the nearest adversarial example falls as the "
    "error falls, also when any one network is left out.",
    rules=(
        Rule("slope", "percent of the mean distance for each e-fold of the error", "above", 5.0, 0.0),
        Rule("slope_without_any_one", "the same, the least over networks left out", "above", 2.0, 0.0),
        Rule("rank_correlation", "of error and distance, across networks", "above", 0.5, 0.0),
    ),
    caveats="Perceptrons of several sizes in the place of 18 architectures; DeepFool's l2 distances, on samples that all "
    "networks have right. The smallest perceptrons are the worst and the easiest to fool, which turns the slope around; "
    "within the largest one, longer training lowers error and distance together, as published.",
    takes_models=True,
    cause=("model_parameters", "epochs"),
    full={"networks": WIDTHS, "samples": 500},
    quick={"networks": SMALL, "samples": 40, "seeds": 1, "epochs": 15},
)
def su2018(
    lab: Lab,
    *,
    networks: Mapping[str, Mapping[str, Any]] = SIZES,
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Train networks of several sizes; fit the distance of their adversarial examples to the logarithm of their error.

    Args:
        lab: data, networks, measurements.
        networks: name -> keys of the recipe that set it apart.
        seeds: networks of each kind.
        samples: test samples of distances; errors are those on the whole test set.
        epochs: of each training that does not say otherwise.

    Returns:
        Three effects across networks. An error of k in n enters as (k + 1/2) / (n + 1), for none has no logarithm.
    """
    batch, whole = lab.samples(samples), lab.samples(len(lab.test_set))
    subjects = family(lab, networks, seeds, objective="standard", epochs=epochs)
    shared = torch.stack([lab.correct(subject, batch) for subject in subjects]).all(0)
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        wrong, distance = ~lab.correct(subject, whole), lab.distance(subject, batch)[shared]
        rows.append(
            {
                "network": subject.name,
                "family": subject.name.rpartition("/")[0],
                "error": (int(wrong.sum()) + 0.5) / (len(whole) + 1),
                "distortion": float(distance.double().mean()),
            }
        )
    table = pd.DataFrame(rows).set_index("network")
    error, distortion = (table[name].to_numpy(float) for name in ("error", "distortion"))
    fit, share = log_linear_fit(error, distortion), 100 / float(distortion.mean())
    left_out = objections(table)
    slopes = left_out["slope"][left_out["left_out"].fillna("").str.startswith("model ")].astype(float)
    best = frontier([[1 - row["error"], row["distortion"]] for row in rows]).tolist()
    shown = [{**row, "on_frontier": bool(best[i])} for i, row in enumerate(rows)]
    effects = {
        "slope": Effect(share * fit.slope, share * fit.low, share * fit.high, fit.n, "networks"),
        "slope_without_any_one": exact(share * float(slopes.min())),
        "rank_correlation": correlation(error, distortion),
    }
    plot = Plot("networks", "points", "error", "distortion", "family", "Mean l2 distance against error", ("x",))
    return Evidence(effects, {"networks": shown}, (plot,))
