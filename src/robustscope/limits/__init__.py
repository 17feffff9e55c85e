"""Floor 2: what data and theory allow, whatever the network: bounds on errors and radii, and models with closed forms.

Each subject is a file; importing this package imports every file in its folder, so adding a file is the registration.
A result is a frozen dataclass that says what it speaks of (the samples given, a population, a family of classifiers),
from how many samples, and in which units.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.limits.cards import LIMITS, LimitCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["LIMITS", "LimitCard", "register"]
