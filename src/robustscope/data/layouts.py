"""Which benchmark of shifts a folder holds, told by its layout: the parts, and the data source of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustscope.core.errors import BadFile, InvalidValue
from robustscope.data.arrays import Mapped
from robustscope.data.base import existing
from robustscope.data.benchmarks import SEVERITIES, WNID

CLEAN = ("clean", 0)
IDENTITY = "identity"
"""What MNIST-C calls its clean set."""
Part = tuple[str, int]
LAYOUTS = (
    "CORRUPTION/SEVERITY/CLASS/PICTURE; CORRUPTION.npy beside labels.npy (CIFAR-C); CORRUPTION/test_images.npy (MNIST-C); "
    "PERTURBATION.npy of sequences (CIFAR-10-P); n01440764/PICTURE (ImageNet-A, -R)"
)


@dataclass(frozen=True)
class Layout:
    """A benchmark on disk.

    Args:
        name: of the folder.
        parts: (corruption, severity) -> data source, or the file of sequences; ("clean", 0) is the clean set.
        sequences: whether the parts are sequences.
    """

    name: str
    parts: dict[Part, str]
    sequences: bool = False


def layout(text: str) -> Layout:
    """Look at a benchmark on disk.

    Args:
        text: its folder, behind which ``?resize=256&crop=224`` brings pictures in folders named by WordNet ids to one size.

    Raises:
        InvalidValue: for options where there are no such folders.
        MissingFile, BadFile: if there is nothing, or nothing that has the form of a benchmark.
    """
    place, mark, options = text.partition("?")
    root = existing(place, "a benchmark of shifts")
    found = _arrays(root) if root.is_dir() else None
    found = found or (_folders(root, mark + options) if root.is_dir() else None)
    if found is None:
        raise BadFile(f"{root} holds no benchmark that is known", f"{LAYOUTS} is expected", "Name the folder of one.")
    if mark and not any(source.endswith(mark + options) for source in found.parts.values()):
        raise InvalidValue(
            f"{mark}{options} was given behind {place}",
            "it is allowed for folders named by WordNet ids",
            "Leave it out: these pictures have one size.",
        )
    return found


def _arrays(root: Path) -> Layout | None:
    """Return what arrays hold: one for each corruption, or sequence, or a folder of arrays for each corruption."""
    files = sorted(file for file in root.glob("*.npy") if file.stem != "labels")
    if files and (root / "labels.npy").is_file():
        classes = int(Mapped.npy(root / "labels.npy").rows(slice(None)).max()) + 1
        source = "cifar10c" if classes <= 10 else "cifar100c"
        several = range(1, SEVERITIES + 1)
        return Layout(root.name, {(f.stem, k): f"{source}:{root}#{f.stem}_{k}" for f in files for k in several})
    if files:
        flat = [file for file in files if len(Mapped.npy(file).shape) != 5]
        if flat:
            raise BadFile(
                f"{flat[0]} holds no sequences, and there is no labels.npy beside it",
                "arrays (n, frames, H, W, C), or arrays of pictures with labels.npy, are expected",
                "Copy the whole benchmark.",
            )
        return Layout(root.name, {(file.stem, 0): str(file) for file in files}, sequences=True)
    names = sorted(file.parent.name for file in root.glob("*/test_images.npy"))
    keys = {name: CLEAN if name == IDENTITY else (name, 1) for name in names}
    return Layout(root.name, {keys[name]: f"mnistc:{root}#{name}" for name in names}) if names else None


def _folders(root: Path, options: str) -> Layout | None:
    """Return what folders of pictures hold: severities of corruptions, or classes of one natural shift."""
    children = _children(root)
    if children and all(WNID.fullmatch(child.name) for child in children):
        return Layout(root.name, {(root.name, 1): _pictures(root, children, options)})
    parts = {(name, severity): _pictures(place, _children(place), options) for name, severity, place in _severe(root)}
    return Layout(root.name, parts) if parts else None


def _severe(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Yield each CORRUPTION/SEVERITY, also where a folder of a family, such as "blur", stands above it."""
    wanted = {str(k) for k in range(1, SEVERITIES + 1)}
    for child in _children(root):
        own = [place for place in _children(child) if place.name in wanted]
        for place in own:
            yield child.name, int(place.name), place
        for corruption in () if own else _children(child):
            for place in _children(corruption):
                if place.name in wanted:
                    yield corruption.name, int(place.name), place


def _pictures(place: Path, classes: Sequence[Path], options: str) -> str:
    """Return the source of a folder of classes; those named by WordNet ids are numbered within themselves."""
    if classes and all(WNID.fullmatch(child.name) for child in classes):
        return f"wnids:{place},{place}{options}"
    return f"folder:{place}"


def _children(place: Path) -> list[Path]:
    return sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))


def same_labels(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two data sets list samples of the same classes in the same order, as shifts of one set do."""
    return first.shape == second.shape and bool((first == second).all())
