"""Floor 2: measurements that need the model and are not attacks.

Probes ask whether a robust accuracy can be believed; each is a function and a registration, a close family to a file.
Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.probes.cards import PROBES, ProbeCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["PROBES", "ProbeCard", "register"]
