"""Style-transfer pictures with two cues: the stimuli of Geirhos et al."""

from __future__ import annotations

import re

import numpy as np

from robustscope.core.errors import BadFile
from robustscope.data.base import Dataset, check_labels, existing
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.folder import PicturesDataset, class_pictures, common_shape
from robustscope.data.sources.wnids import CroppedDataset, sides

_NAME = re.compile(r"([a-z]+)\d*-([a-z]+)\d*")


@SOURCES.register(
    "cue-conflict",
    version=1,
    source="Geirhos et al., 2019, arXiv:1811.12231; github.com/rgeirhos/texture-vs-shape, stimuli/style-transfer",
    example="cue-conflict:FOLDER?resize=224&crop=224#texture",
    splits=("shape", "texture"),
)
def cue_conflict(path: str, split: str) -> Dataset:
    """Read pictures whose file names say shape and texture, ``SHAPE/shape1-texture2.png``, in folders by shape.

    Pictures on which both cues agree are no conflict; they are kept, and :mod:`robustscope.probes.why.shape_bias` leaves
    them out.

    Args:
        path: the folder of the class folders; behind it ``?resize=N&crop=M``, as ``wnids`` takes it, brings the pictures
            to the size of a model.
        split: "shape" (default) or "texture": which cue is the label. The classes are the sorted names of all folders.

    Raises:
        MissingFile: if the path does not exist.
        BadFile: for files named otherwise, textures without a folder, and unreadable pictures.
        InvalidValue: for other options.
    """
    where, wanted = sides(path)
    root = existing(where, "a folder with one sub-folder for each shape")
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    names = [folder.name for folder in folders]
    if not folders:
        raise BadFile(f"{root} has no sub-folders", "one for each shape is expected", "Give the folder above them.")
    files, shapes = class_pictures(folders)
    textures = []
    for file, shape in zip(files, shapes, strict=True):
        match = _NAME.fullmatch(file.stem)
        if not match or match[1] != names[shape] or match[2] not in names:
            raise BadFile(
                f"{file} is not named after its folder and a texture",
                f"SHAPE1-TEXTURE2 with two of {', '.join(names)} is allowed",
                "Keep the names of the published stimuli.",
            )
        textures.append(names.index(match[2]))
    labels = np.asarray(textures, dtype=np.int64) if split == "texture" else shapes
    labels = check_labels(labels, len(files), str(root))
    if wanted is None:
        return PicturesDataset(root.name, files, common_shape(files), labels, names)
    return CroppedDataset(root.name, files, wanted, labels, names)
