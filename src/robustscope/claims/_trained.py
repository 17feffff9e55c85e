"""Networks trained by several objectives, judged on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustscope.claims.cards import Effect, Plot
from robustscope.claims.effects import column, difference, exact
from robustscope.claims.lab import Lab, Subject

Rows = list[dict[str, Any]]

TRADE = Plot("networks", "points", "accuracy", "robust", "network", "Accuracy and robust accuracy, %")
COST = Plot("networks", "points", "passes", "robust", "network", "Robust accuracy, %, and passes", ("x",))


def passes(subject: Subject) -> dict[str, float]:
    """Return columns of what training cost: rows for each sample of the training set, through all layers and the first."""
    spent = subject.passes
    return {"passes": spent.backward / subject.samples, "first_layer_passes": spent.partial / subject.samples}


def judged(
    lab: Lab, networks: Mapping[str, Mapping[str, Any]], seeds: int, samples: int, *, epochs: int, **common: Any
) -> Rows:
    """Train networks, and judge accuracy, robust accuracy (both in percent) and cost of each.

    Args:
        lab: data, networks, measurements.
        networks: name -> what of :meth:`Lab.network` sets it apart.
        seeds: of each.
        samples: test samples.
        epochs: of each training that says nothing else.
        **common: what of :meth:`Lab.network` they share.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        return {**lab.accuracies(subject, batch), **passes(subject)}

    return lab.table(networks, seeds, measure, epochs=epochs, **common)


def objectives(*names: str) -> dict[str, dict[str, Any]]:
    """Return networks of these objectives with default parameters, under their names."""
    return {name: {"objective": name} for name in names}


def ahead(rows: Sequence[Mapping[str, Any]], name: str, first: str, second: str) -> Effect:
    """Return by how much a column of the first kind of network exceeds that of the second, in pairs of one seed."""
    return difference(column(rows, name, network=first), column(rows, name, network=second))


def cost(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> Effect:
    """Return the passes of the first kind of network in percent of those of the second."""
    one, other = (column(rows, "passes", network=name) for name in (first, second))
    return exact(100 * float(one.sum() / other.sum()))


def gained(rows: Rows, along: str, name: str, network: str) -> np.ndarray:
    """Return what a column of one kind of network gains from the first value of another column to the last: one for each seed."""
    first, last = (column(rows, name, network=network, **{along: rows[end][along]}) for end in (0, -1))
    return last - first


def both(along: str, title: str) -> tuple[Plot, Plot]:
    """Return plots of robust accuracy and of accuracy along a column of the networks."""
    names = (("robust", "Robust accuracy"), ("accuracy", "Accuracy"))
    first, second = (Plot("networks", "points", along, name, "network", f"{what}, %, {title}") for name, what in names)
    return first, second
