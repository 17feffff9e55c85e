"""The handwritten digits that come with scikit-learn: the embedded default."""

from __future__ import annotations

import numpy as np

from robustscope.core.errors import InvalidValue, MissingExtra
from robustscope.data.arrays import ArrayDataset
from robustscope.data.base import Dataset, check_labels
from robustscope.data.datasets import SOURCES
from robustscope.data.selection import stratified

TEST_SIZE = 500


@SOURCES.register(
    "digits",
    version=1,
    source="Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI, doi:10.24432/C50P49 (test part)",
    example="digits#train",
    splits=("train", "test", "all"),
)
def digits(path: str, split: str) -> Dataset:
    """Read scikit-learn's 1,797 digits: 8x8 grey images whose values 0..16 are divided by 16.

    The set has no split of its own. Here 500 samples, each class in proportion and chosen at random with seed 0, are
    the test split, and the other 1,297 the training split; both keep the original order.

    Args:
        path: must be empty.
        split: "test" (default), "train" or "all".

    Raises:
        InvalidValue: if a path was given.
    """
    if path:
        raise InvalidValue(
            f"digits:{path} was given", "digits has no path", "Write digits, digits#train or digits#all."
        )
    try:
        from sklearn.datasets import load_digits
    except Exception as error:
        raise MissingExtra(
            f"scikit-learn could not be imported ({type(error).__name__}: {error})",
            "it holds the digits",
            "Install it with: pip install scikit-learn.",
        ) from error
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = check_labels(bunch.target, len(images), "digits", 10)
    if split != "all":
        test = np.asarray(stratified(labels, TEST_SIZE, seed=0, purpose="digits/test"))
        keep = np.setdiff1d(np.arange(len(labels)), test) if split == "train" else test
        images, labels = images[keep], labels[keep]
    return ArrayDataset("digits", [images], labels, [str(k) for k in range(10)], scale=16)
