"""Estimates as plain records, for tables and pictures that are made without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.types import Estimate
from robustscope.estimates.weibull import STARTS


def records(found: Estimate, ids: Iterable[int] | None = None) -> list[dict[str, Any]]:
    """Return one dictionary of plain numbers for each sample, ready for JSON.

    A gap is None, or an empty list where nothing was sampled. ``starts`` counts the locations from which the likelihood
    was searched, 0 where there was nothing to fit. ``analyses.clever_fit`` makes the picture of a record: the histogram of
    ``maxima`` under the fitted density.

    Args:
        found: estimates of B samples.
        ids: their ids; None numbers them.

    Raises:
        InvalidValue: if there is not one id for each sample.

    Example:
        >>> from robustscope.data.problems import linear_binary
        >>> from robustscope.estimates.compose import estimate
        >>> from robustscope.models.classifier import Classifier
        >>> p = linear_binary("l2", n=1)
        >>> row = records(estimate("clever", Classifier(p.module), p.x, p.y, "l2:1", batches=3, points=2), ids=[41])[0]
        >>> row["sample"], round(row["radius"], 6), row["shape"], row["warnings"]
        (41, 0.2, None, ['constant'])
    """
    count = len(found.warnings)
    numbers = list(range(count)) if ids is None else [int(i) for i in ids]
    if len(numbers) != count:
        raise InvalidValue(
            f"{len(numbers)} ids were given for {count} samples", "one id for each is allowed", "Leave ids out."
        )
    columns = {field.name: getattr(found, field.name) for field in fields(found)}
    known = (found.rival >= 0).tolist()
    rows: list[dict[str, Any]] = []
    for i, number in enumerate(numbers):
        row: dict[str, Any] = {"sample": number}
        for name, values in columns.items():
            if not isinstance(values, Tensor):
                row[name] = list(values[i])
            elif values.dim() == 2:
                row[name] = values[i].tolist() if known[i] else []
            else:
                row[name] = _plain(values[i])
        row["starts"] = STARTS if known[i] and "constant" not in found.warnings[i] else 0
        rows.append(row)
    return rows


def _plain(value: Tensor) -> float | int | bool | None:
    """Return a number of one element, None for NaN."""
    plain = value.item()
    return None if value.dtype == torch.float64 and math.isnan(plain) else plain
