"""Sequences of slightly changed pictures, as in ImageNet-P; each is a file, a function and a registration."""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.corruptions.sequences.cards import SEQUENCES, SequenceCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from robustscope.corruptions.sequences.compose import perturb  # noqa: E402  (the registry is complete from here on)

__all__ = ["SEQUENCES", "SequenceCard", "perturb", "register"]
