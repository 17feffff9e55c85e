"""One file for each training objective.

Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.training.cards import OBJECTIVES

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["OBJECTIVES"]
