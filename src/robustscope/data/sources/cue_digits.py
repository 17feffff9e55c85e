"""Digits whose shape and texture say different classes."""

from __future__ import annotations

import torch

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.data.arrays import from_tensors
from robustscope.data.base import Dataset
from robustscope.data.cue_conflict import KINDS, cue_digits
from robustscope.data.datasets import SOURCES
from robustscope.data.sources.digits import digits


@SOURCES.register(
    "cue-digits",
    version=1,
    source="scikit-learn's digits filled with stripes, after Geirhos et al., 2019, arXiv:1811.12231",
    example="cue-digits:conflict,texture#test",
    splits=("train", "test", "all"),
)
def read_cue_digits(path: str, split: str) -> Dataset:
    """Fill scikit-learn's digits with stripes whose angle stands for a class: 32x32 grey pictures.

    Args:
        path: ``KIND`` or ``KIND,CUE``. The kind is "consistent" (shape and texture agree), "conflict" (they never do) or
            "random" (texture says nothing); the cue, "shape" (default) or "texture", says which of the two is the label.
        split: "test" (default), "train" or "all", as those of ``digits``.

    Raises:
        InvalidValue: for other kinds or cues.
    """
    kind, _, cue = path.partition(",")
    if kind not in KINDS or cue not in ("", "shape", "texture"):
        raise InvalidValue(
            f"cue-digits:{path} was given",
            f"KIND or KIND,CUE with KIND one of {KINDS} and CUE 'shape' or 'texture' is allowed",
            "Write e.g. cue-digits:conflict,texture.",
        )
    plain = digits("", split)
    ids = tuple(range(len(plain)))
    draws = Draws(0, ids, f"cue-digits/{split or 'test'}")
    made = cue_digits(plain.read(ids), torch.from_numpy(plain.labels), kind, draws=draws)
    labels = made.textures if cue == "texture" else made.shapes
    return from_tensors(made.x, labels, f"cue-digits-{kind}", plain.class_names)
