"""The samples of a training: those it sees, those it holds out, read onto its device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.data.base import Dataset
from robustscope.data.datasets import load_data
from robustscope.data.selection import select, stratified
from robustscope.training.monitor import HeldOut
from robustscope.training.recipe import Recipe


@dataclass(frozen=True)
class Samples:
    """Where the samples of a training come from.

    Args:
        data: the training set; ids are positions in it.
        ids: those that are trained on.
        held: those that are held out.
        fingerprint: SHA-256 of both.
        device: where batches go.
    """

    data: Dataset
    ids: tuple[int, ...]
    held: HeldOut
    fingerprint: str
    device: torch.device

    def read(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Return inputs (B, *S) and classes int64 (B,) of these samples."""
        return _read(self.data, ids, self.device)


def _check_other(recipe: Recipe, data: Dataset, other: Dataset, *, named: bool) -> None:
    """Refuse samples to hold out that the network cannot be asked, or that it is trained on.

    Raises:
        InvalidValue: for another shape or more classes, and for the training set itself.
    """
    if other.shape != data.shape or other.num_classes > data.num_classes:
        raise InvalidValue(
            f"validation_data={recipe.validation_data!r} has inputs {tuple(other.shape)} of {other.num_classes} classes",
            f"inputs {tuple(data.shape)} of up to {data.num_classes} classes, as those of the training, are allowed",
            "Name another part of the same data.",
        )
    if named and recipe.validation_data == recipe.data:
        raise InvalidValue(
            f"validation_data={recipe.validation_data!r} is the training set",
            "samples that are not trained on are allowed",
            "Leave it out: then samples are held out of the training set.",
        )


def _read(data: Dataset, ids: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    return data.read(ids).to(device), torch.as_tensor(data.labels[ids]).to(device)


def open_samples(recipe: Recipe, data: Dataset | None, device: torch.device) -> Samples:
    """Open the data of a recipe and hold some of it out, each class in proportion.

    Args:
        recipe: names data, samples and validation.
        data: training set in memory, in place of the one named.
        device: where batches go.

    Raises:
        InvalidValue: if nothing is left to train on, or to hold out, or samples to hold out are of other data, or are
            those of the training.
    """
    named = data is None
    data = data if data is not None else load_data(recipe.data)
    ids = select(data, recipe.samples, recipe.seed)
    other = load_data(recipe.validation_data) if recipe.validation_data else None
    if other is not None:
        _check_other(recipe, data, other, named=named)
    pool = list(range(len(other))) if other is not None else ids
    count = round(recipe.validation * len(pool)) if recipe.validation < 1 else int(recipe.validation)
    most = len(pool) if other is not None else len(ids) - 1
    if not 1 <= count <= most:
        raise InvalidValue(
            f"validation={recipe.validation} of {len(pool)} samples was given",
            f"1 to {most} samples, or the fraction that they are, are allowed",
            "Training is judged on held-out samples: write e.g. validation = 0.1, or 500.",
        )
    source = other if other is not None else data
    chosen = [pool[i] for i in stratified(source.labels[pool], count, recipe.seed, "train/validation")]
    x, y = _read(source, chosen, device)
    outside = set(chosen) if other is None else set()
    kept = tuple(i for i in ids if i not in outside)
    digest = hashlib.sha256((data.fingerprint(kept) + source.fingerprint(chosen)).encode()).hexdigest()
    return Samples(data, kept, HeldOut(x, y, Draws(recipe.seed, tuple(chosen), "validation")), digest, device)
