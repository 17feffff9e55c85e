"""Which samples of a data set are evaluated."""

from __future__ import annotations

import re

import numpy as np

from robustscope.core.draws import permutation, subsets
from robustscope.core.errors import InvalidValue
from robustscope.data.base import Dataset

_FORMS = "'all', a number such as '500', a range such as '0:500', or 'ids:3,5,8' is allowed"


def stratified(labels: np.ndarray, count: int, seed: int, purpose: str = "select") -> list[int]:
    """Return ``count`` ids, sorted: a random subset in which each class has its share, to within about one sample.

    All samples are put into one order that depends on the seed alone, and the first ``count`` are taken; a smaller
    subset is therefore contained in every larger one. The j-th sample (in random order) of a class of m stands at
    (j + 1/2) / m, so that every prefix of the order holds each class in proportion; ties are broken at random.

    Args:
        labels: (n,) classes.
        count: 1 to n.
        seed: decides the order.
        purpose: keeps different uses of one seed apart.
    """
    groups = [np.flatnonzero(labels == k).tolist() for k in np.unique(labels)]
    place = np.empty(len(labels))
    for group in subsets(seed, purpose, groups):
        place[group] = (np.arange(len(group)) + 0.5) / len(group)
    ties = np.asarray(permutation(seed, f"{purpose}/ties", len(labels)))
    order = np.lexsort((ties, place))
    return sorted(order[:count].tolist())


def select(dataset: Dataset, text: str | int, seed: int = 0) -> list[int]:
    """Return the ids of the samples that ``text`` names.

    Args:
        dataset: its labels and length are used; nothing is read.
        text: "all"; "500", a seeded random subset with each class in proportion, never a prefix; "0:500", a range
            that the user names; "ids:3,5,8".
        seed: decides random subsets; for one seed a smaller subset is contained in a larger one.

    Returns:
        Ids in increasing order; those of "ids:" in the order given.

    Raises:
        InvalidValue: for other forms, empty selections, ids out of range, ids given twice, more samples than exist.
    """
    given, total = str(text).strip(), len(dataset)
    if given == "all":
        return list(range(total))
    if given.startswith("ids:"):
        return _listed(given, total)
    if match := re.fullmatch(r"(\d*):(\d*)", given):
        start, stop = int(match[1] or 0), int(match[2] or total)
        if not start < stop <= total:
            raise InvalidValue(
                f"samples={given!r} was given",
                f"a range with start < stop <= {total} is allowed",
                f"The data set has {total} samples, numbered from 0; the stop is not included.",
            )
        return list(range(start, stop))
    if not re.fullmatch(r"\d+", given):
        raise InvalidValue(f"samples={given!r} was given", _FORMS, "Write e.g. samples='500'.")
    count = int(given)
    if not 0 < count <= total:
        raise InvalidValue(
            f"samples={given!r} was given",
            f"1 to {total} samples are allowed",
            f"The data set has {total} samples; 'all' takes them all.",
        )
    return stratified(dataset.labels, count, seed)


def _listed(given: str, total: int) -> list[int]:
    texts = [part.strip() for part in given.removeprefix("ids:").split(",")]
    if not all(re.fullmatch(r"\d+", part) for part in texts):
        raise InvalidValue(f"samples={given!r} was given", _FORMS, "Write the ids with commas between: ids:3,5,8.")
    ids = [int(part) for part in texts]
    outside = [i for i in ids if i >= total]
    if outside:
        raise InvalidValue(
            f"the sample id {outside[0]} was given",
            f"0 to {total - 1} are allowed",
            f"The data set has {total} samples, numbered from 0.",
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InvalidValue(
            f"the sample id {twice} was given twice", "each id once is allowed", "Remove the second one."
        )
    return ids
