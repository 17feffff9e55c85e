"""Floor 2: common corruptions; each is a file, a function ``(x, severity, *, draws) -> x'`` and a registration.

Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.corruptions.cards import CORRUPTIONS, CorruptionCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from robustscope.corruptions.compose import corrupt  # noqa: E402  (the registry is complete from here on)
from robustscope.corruptions.suites import SUITES  # noqa: E402

__all__ = ["CORRUPTIONS", "SUITES", "CorruptionCard", "corrupt", "register"]
