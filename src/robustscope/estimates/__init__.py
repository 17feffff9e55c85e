"""Floor 2: estimates of the robust radius; each one a file, a function and a registration.

An estimate extrapolates from samples. It lies on no side of the true radius for certain, and is never called a bound.
Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.estimates.cards import ESTIMATES, WARNINGS, EstimateCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["ESTIMATES", "WARNINGS", "EstimateCard", "register"]
