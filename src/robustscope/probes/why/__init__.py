"""Floor 2: why is it robust? Saliency, frequency, texture, smoothness: one file a probe.

Importing this package imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.probes.why.cards import WHY, Findings, WhyCard, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["WHY", "Findings", "WhyCard", "register"]
