"""Hendrycks 2019: better networks err less on corrupted pictures, but hardly lose less to the corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustscope.analyses.corruption_errors import mce, relative_mce
from robustscope.claims._family import SIZES, SMALL, WIDTHS, family
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation
from robustscope.claims.lab import Lab
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.suites import IMAGENET_C
from robustscope.runs.corruption_suites import corrupted


@register(
    "hendrycks2019_corruptions",
    version=1,
    source="Hendrycks and Dietterich, 2019, arXiv:1903.12261, Sec. 5.1",
    bibtex=HENDRYCKS,
    topic="robustness and accuracy",
    finding="From AlexNet to ResNet the corruption error falls with the clean error, while the relative corruption error, "
    "which takes the clean error away, hardly improves.",
    hypothesis="Across networks of rising size the mean corruption error follows the clean error, and the relative one does "
    "not.",
    rules=(
        Rule("corruption_error", "rank correlation with the clean error across networks", "above", 0.5, 0.0),
        Rule("relative_corruption_error", "rank correlation with the clean error across networks", "below", 0.3, 0.7),
    ),
    caveats="Eight of the fifteen corruptions of ImageNet-C, those that leave pictures of 8 pixels a side recognisable; "
    "perceptrons of several sizes stand in the place of a decade of architectures. Networks trained for a "
    "short time err more on clean pictures and no more on corrupted ones, which widens both intervals.",
    takes_models=True,
    cause=("model_parameters", "epochs"),
    full={"corruptions": IMAGENET_C, "networks": WIDTHS, "samples": 1000},
    quick={"networks": SMALL, "corruptions": ("gaussian_noise", "snow"), "samples": 100, "seeds": 1, "epochs": 15},
)
def hendrycks2019_corruptions(
    lab: Lab,
    *,
    networks: Mapping[str, Mapping[str, Any]] = SIZES,
    corruptions: Sequence[str] = (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "glass_blur",
        "zoom_blur",
        "snow",
        "brightness",
        "jpeg_compression",
    ),
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Measure networks on corrupted pictures at five severities; correlate corruption errors with clean errors.

    Args:
        lab: data, networks, measurements.
        networks: name -> keys of the recipe that set it apart.
        corruptions: names.
        seeds: networks of each kind.
        samples: test samples that are corrupted.
        epochs: of each training that does not say otherwise.

    Returns:
        Two effects, rank correlations; errors are relative to those of the network with the largest clean error.
    """
    batch = lab.samples(samples)
    pictures = {
        name: [corrupted(batch.x, (name, level), batch.ids, lab.setting.seed, "auto") for level in range(1, 6)]
        for name in corruptions
    }
    clean, errors = {}, {}
    for subject in family(lab, networks, seeds, objective="standard", epochs=epochs):
        decide, y = subject.model.decisions, batch.y
        clean[subject.name] = float((decide(batch.x) != y).double().mean())
        errors[subject.name] = {
            name: [float((decide(x) != y).double().mean()) for x in levels] for name, levels in pictures.items()
        }
    worst = max(clean, key=lambda name: clean[name])
    rows = [
        {
            "network": name,
            "clean_error": 100 * clean[name],
            "mce": 100 * mce(found, errors[worst]),
            "relative_mce": 100 * relative_mce(found, clean[name], errors[worst], clean[worst]),
        }
        for name, found in errors.items()
    ]
    effects = {
        "corruption_error": correlation(column(rows, "clean_error"), column(rows, "mce")),
        "relative_corruption_error": correlation(column(rows, "clean_error"), column(rows, "relative_mce")),
    }
    plots = tuple(
        Plot("networks", "points", "clean_error", name, "network", title)
        for name, title in (("mce", "Mean corruption error, percent"), ("relative_mce", "Relative mCE, percent"))
    )
    return Evidence(effects, {"networks": rows}, plots)
