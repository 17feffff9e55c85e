"""Foreground masks: from pictures, arrays, COCO and GTSRB annotations; dilated masks and controls of the same area."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, InvalidValue, did_you_mean
from robustscope.core.files import write_json
from robustscope.data.arrays import Mapped
from robustscope.data.base import Dataset, existing
from robustscope.data.coco import Make, by_name, coco_masks
from robustscope.data.pictures import pillow
from robustscope.data.sources.folder import PicturesDataset
from robustscope.data.sources.wnids import CroppedDataset, cropped

Kind = Literal["foreground", "dilated", "random", "shifted"]
KINDS: tuple[Kind, ...] = ("foreground", "dilated", "random", "shifted")
"""The masks as given; grown; as many pixels at random places; the mask itself at a random place."""


class Masks:
    """One mask for each sample of a data set, made when it is read.

    Args:
        name: for tables.
        shape: (H, W) of the samples.
        count: samples.
        make: sample id -> bool (H', W').
        fit: brings such a mask to the samples' (H, W).
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        count: int,
        make: Callable[[int], np.ndarray],
        fit: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.name, self.shape, self.count = name, shape, count
        self._make, self._fit = make, fit or (lambda mask: sampled(mask, shape))

    def __len__(self) -> int:
        return self.count

    def read(self, ids: Sequence[int]) -> Tensor:
        """Return masks bool (B, H, W), True on the foreground.

        Raises:
            InvalidValue: for an id that the data do not have.
            BadFile: if a mask cannot be read, or shows no foreground at all.
        """
        found = np.empty((len(ids), *self.shape), bool)
        for row, i in enumerate(ids):
            if not 0 <= i < self.count:
                raise InvalidValue(
                    f"the mask {i} was asked for", f"0 to {self.count - 1} are allowed", "Check the ids."
                )
            found[row] = self._fit(self._make(int(i)))
            if not found[row].any():
                raise BadFile(
                    f"the mask of sample {i} of {self.name} shows no foreground",
                    "one pixel or more is allowed",
                    "Leave the sample out, or correct its mask.",
                )
        return torch.from_numpy(found)

    def fingerprint(self, ids: Sequence[int]) -> str:
        """Return the sha-256 of these masks."""
        digest = hashlib.sha256(repr((self.shape, len(ids))).encode())
        for i in ids:
            digest.update(np.packbits(self.read([i]).numpy()).tobytes())
        return digest.hexdigest()


def load_masks(spec: str, data: Dataset) -> Masks:
    """Open the masks of a data set.

    Args:
        spec: one of

            - ``png:FOLDER``: a picture for each sample, foreground where it is not 0; named as the samples' files
              (``CLASS/NAME.png``, or ``NAME.png`` if that is unique), or by sample ids for other data;
            - ``npy:FILE``: bool or bytes (n, H, W), foreground where not 0;
            - ``coco:FILE`` or ``coco:FILE?category=dog``: COCO's JSON with polygons or run lengths; the union of all
              annotations of a picture, or of one category;
            - ``gtsrb:PATH``: GTSRB's CSV (``Filename;Width;Height;Roi.X1;...``), a file or a folder of them;
              ``?shape=ellipse`` takes the ellipse in the box instead of the box.

            A mask of another size than the samples is brought to it as the samples were: cut out of the middle for
            ``wnids:...?resize=256&crop=224``, else each pixel takes the value at its centre.
        data: the masks belong to it.

    Raises:
        MissingFile, BadFile: if something is absent, broken, or has no mask for a sample.
        InvalidValue: for another form, or data that are no pictures.
    """
    match = re.fullmatch(r"(png|npy|coco|gtsrb):([^?]+)(?:\?(\w+)=([\w \-]+))?", spec.strip())
    option = {"coco": "category", "gtsrb": "shape"}.get(match[1]) if match else None
    if match is None or (match[3] and match[3] != option) or len(data.shape) != 3:
        raise InvalidValue(
            f"masks {spec!r} were asked for, of samples {data.shape}",
            "png:FOLDER, npy:FILE, coco:FILE?category=NAME or gtsrb:PATH?shape=ellipse of pictures is allowed",
            did_you_mean(spec.partition(":")[0], ["png", "npy", "coco", "gtsrb"]),
        )
    kind, place, chosen = match[1], existing(match[2], "masks"), match[4] or ""
    shape = (data.shape[1], data.shape[2])
    fit = _cropping(data) if isinstance(data, CroppedDataset) else None
    if kind == "npy":
        return _array(place, shape, len(data), fit)
    if kind == "png":
        files = _named(place, data)
        return Masks(place.name, shape, len(data), lambda i: read_mask(files[i]), fit)
    find = coco_masks(place, chosen) if kind == "coco" else gtsrb_masks(place, chosen or "box")
    names = sample_files(data)
    keys = [_key(find, names[i], place) for i in range(len(data))]
    return Masks(place.name, shape, len(data), lambda i: find[keys[i]](), fit)


def sample_files(data: Dataset) -> list[Path]:
    """Return the file of each sample.

    Raises:
        InvalidValue: for data that are not pictures in files.
    """
    if not isinstance(data, PicturesDataset):
        raise InvalidValue(
            f"annotations by file name were given for {data!r}",
            "data read from files of pictures are allowed",
            "Take folder:PATH or wnids:FOLDER; for other data write the masks as npy:FILE.",
        )
    return list(data.files)


def _key(find: Mapping[str, Any], file: Path, place: Path) -> str:
    for key in (f"{file.parent.name}/{file.stem}", file.stem):
        if key in find:
            return key
    raise BadFile(
        f"{place} says nothing about {file.name}",
        "an annotation for each picture is needed",
        "Leave the picture out, or annotate it; of names that occur twice the folder counts too.",
    )


def _array(file: Path, shape: tuple[int, int], count: int, fit: Callable | None) -> Masks:
    found = Mapped.npy(file)
    if len(found.shape) != 3 or found.dtype not in ("|u1", "|b1") or found.shape[0] != count:
        raise BadFile(
            f"{file} holds {found.dtype} of shape {found.shape}",
            f"bool or bytes of shape ({count}, H, W) are allowed",
            "Write one mask for each sample.",
        )
    return Masks(file.stem, shape, count, lambda i: found.rows(np.asarray([i]))[0] != 0, fit)


def _named(folder: Path, data: Dataset) -> list[Path]:
    """Return the mask file of each sample."""
    if isinstance(data, PicturesDataset):
        wanted = [[f"{file.parent.name}/{file.stem}.png", f"{file.stem}.png"] for file in data.files]
    else:
        wanted = [[f"{i}.png", f"{i:0{len(str(len(data) - 1))}d}.png"] for i in range(len(data))]
    found = []
    for names in wanted:
        here = [folder / name for name in names if (folder / name).is_file()]
        if not here:
            raise BadFile(f"{folder} has no {names[0]}", "a mask for each sample is needed", "Draw it.")
        found.append(here[0])
    return found


def read_mask(file: Path) -> np.ndarray:
    """Return a mask from a picture of black, white or grey: bool (H, W), True where it is not black.

    Raises:
        BadFile: if it cannot be read, or is coloured or has a palette.
    """
    try:
        with pillow().open(file) as picture:
            if picture.mode not in ("1", "L"):
                raise BadFile(
                    f"{file} has the mode {picture.mode!r}", "'1' or 'L' is allowed", "Say what each colour means."
                )
            return np.asarray(picture) != 0
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{file} could not be read ({error})", "a picture is allowed", "Replace it.") from error


def _cropping(data: CroppedDataset) -> Callable[[np.ndarray], np.ndarray]:
    def fit(mask: np.ndarray) -> np.ndarray:
        grey = np.repeat(mask[None].astype(np.uint8) * 255, 3, 0)
        return cropped(grey, data.resize, data.shape[1])[0] >= 128

    return fit


def sampled(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask at another size: each pixel takes the value at its centre.

    Example:
        >>> sampled(np.eye(2, dtype=bool), (4, 4)).astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(shape, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def gtsrb_masks(place: Path, shape: str = "box") -> dict[str, Make]:
    """Read the regions of GTSRB: name -> what makes the mask of the picture.

    Args:
        place: a CSV file, or a folder with CSV files at any depth. Names are ``FOLDER/STEM``, the folder being that of the
            file, and ``STEM`` where it occurs once.
        shape: "box", corners included, or the "ellipse" in it.

    Raises:
        BadFile: for no rows, or other columns.
        InvalidValue: for another shape.

    Source: Stallkamp et al. 2012, doi:10.1016/j.neunet.2012.02.016; the columns of the published files.
    """
    if shape not in ("box", "ellipse"):
        raise InvalidValue(f"shape={shape!r} was given", "box or ellipse is allowed", "Write ?shape=ellipse.")
    files = sorted(place.rglob("*.csv")) if place.is_dir() else [place]
    found: list[tuple[Path, Make]] = []
    for file in files:
        try:
            for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter=";"):
                numbers = [int(row[name]) for name in ("Height", "Width", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")]
                found.append((file.parent / Path(row["Filename"]).name, _region(numbers, shape)))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BadFile(
                f"{file} could not be read ({type(error).__name__}: {error})",
                "GTSRB's columns Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2 are allowed",
                "Copy the published file again.",
            ) from error
    if not found:
        raise BadFile(f"{place} holds no region", "GTSRB's CSV files are allowed", "Check the path.")
    return by_name(found)


def _region(numbers: Sequence[int], shape: str) -> Make:
    height, width, x1, y1, x2, y2 = numbers

    def make() -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        if shape == "box":
            return (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
        across, down = (x2 - x1 + 1) / 2, (y2 - y1 + 1) / 2
        return ((x - (x1 + x2) / 2) / across) ** 2 + ((y - (y1 + y2) / 2) / down) ** 2 <= 1

    return make


# Other masks of the same pictures ---------------------------------------------------------------------------------------


def changed(kind: Kind, masks: Tensor, draws: Draws, *, pixels: int = 2) -> Tensor:
    """Return masks of a kind: those given, grown, or a control of the same area.

    Args:
        kind: of :data:`KINDS`. "random" has as many pixels at random places; "shifted" is the mask itself, moved around the
            picture, whose edges meet: the same form and area, elsewhere.
        masks: bool (B, H, W).
        draws: random numbers of these samples.
        pixels: by which "dilated" grows, in each direction and diagonally.

    Returns:
        bool (B, H, W).

    Raises:
        InvalidValue: for another kind, or pixels < 0.

    Example:
        >>> mask = torch.zeros(1, 5, 5, dtype=torch.bool)
        >>> mask[0, 2, 2] = True
        >>> [int(changed(kind, mask, Draws(0, (7,)), pixels=1).sum()) for kind in KINDS]
        [1, 9, 1, 1]
    """
    if kind not in KINDS or pixels < 0:
        raise InvalidValue(
            f"kind={kind!r}, pixels={pixels} were given",
            f"one of {', '.join(KINDS)}, and pixels >= 0, are allowed",
            did_you_mean(str(kind), KINDS),
        )
    if kind == "foreground":
        return masks
    if kind == "dilated":
        return F.max_pool2d(masks[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0
    flat = masks.flatten(1)
    if kind == "random":
        order = draws.uniform("random mask", torch.empty(flat.shape, device=flat.device)).argsort(dim=1, stable=True)
        first = torch.arange(flat.shape[1], device=flat.device)[None] < flat.sum(1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, order, first).reshape(masks.shape)
    down, right = (draws.integers(f"shifted mask/{side}", 1, 0, n)[:, 0].tolist() for side, n in _sides(masks))
    moved = [mask.roll((a, b), (0, 1)) for mask, a, b in zip(masks, down, right, strict=True)]
    return torch.stack(moved) if moved else masks


def _sides(masks: Tensor) -> list[tuple[str, int]]:
    return [("down", masks.shape[1]), ("right", masks.shape[2])]


def write_masked(
    data: Dataset, masks: Masks, out: str | Path, ids: Sequence[int] | None = None, *, kind: Kind = "foreground"
) -> Path:
    """Write a data set with its background set to 0, for training: ``npy:OUT`` opens it.

    Args:
        data: stored values keep their type.
        masks: of it.
        out: new or empty folder; gets ``x.npy``, ``y.npy``, ``masks.npy`` (which ``npy:OUT/masks.npy`` opens as masks)
            and ``facts.json``.
        ids: samples, in this order; all if left out.
        kind: which masks; see :func:`changed`, whose draws are those of seed 0.

    Raises:
        InvalidValue: if the folder holds files.
        BadFile: as reading does.
    """
    folder, rows = Path(out), list(range(len(data))) if ids is None else [int(i) for i in ids]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValue(f"{folder} holds other files", "a new or empty folder is allowed", "Name another.")
    folder.mkdir(parents=True, exist_ok=True)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", data.dtype.newbyteorder("="), (len(rows), *data.shape))
    kept = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.dtype(bool), (len(rows), *masks.shape))
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        mine = changed(kind, masks.read(part), Draws(0, tuple(part), "masks")).numpy()
        kept[start : start + len(part)] = mine
        x[start : start + len(part)] = data.raw(np.asarray(part, dtype=np.int64)) * mine[:, None].astype(data.dtype)
    x.flush()
    kept.flush()
    facts = {"data": data.name, "masks": masks.name, "kind": kind, "ids": rows, "area": float(kept.mean())}
    write_json(folder / "facts.json", facts)
    np.save(folder / "y.npy", data.labels[rows])
    return folder
