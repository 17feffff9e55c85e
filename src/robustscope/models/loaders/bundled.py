"""``bundled:NAME``: the small networks that ship with the package, for demonstrations and tests."""

from __future__ import annotations

from importlib.resources import as_file, files

from robustscope.core.errors import UnknownName, did_you_mean
from robustscope.models.loaders.card_file import load_card
from robustscope.models.sources import LOADERS, Source


@LOADERS.register(
    "bundled",
    version=1,
    source="Trained by this project on scikit-learn's digits: examples/train_digits.py",
    form="bundled:NAME (digits_standard, digits_adversarial)",
    prefix="bundled",
)
def load_bundled(place: str, weights: str | None) -> Source:
    """Load a network that ships with the package.

    Args:
        place: its name.
        weights: other weights for the same architecture, or None.

    Raises:
        UnknownName: if there is no such network.
    """
    folder = files("robustscope.models") / "bundled"
    names = sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))
    if place not in names:
        raise UnknownName(f"the bundled model {place!r} is not known", "", did_you_mean(place, names))
    with as_file(folder) as local:
        return load_card(str(local / f"{place}.json"), weights)
