"""Floor 2: attacks, x -> x_adv; each one a file, a function and a registration.

Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.attacks.cards import ATTACKS, Attack, AttackCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["ATTACKS", "Attack", "AttackCard", "register"]
