"""Floor 2: defences in front of a network; each transformation is a file, a function and a registration.

They are here as what adaptive attacks must break. Importing this package imports every file in its folder, so adding a
file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.defenses.cards import DEFENSES, DefenseCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["DEFENSES", "DefenseCard", "register"]
