"""Floor 2: certificates. Each method is a file, a function and a registration, and proves a lower bound.

Where an attack shows that an adversarial example exists, a certificate shows that none does. Importing this package
imports every file in its folder, so adding a file is the registration.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustscope.certify.cards import CERTIFIERS, CertifierCard, certified_model, certify, register
from robustscope.certify.radius import CertifiedRadius, certified_radius

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CERTIFIERS",
    "CertifiedRadius",
    "CertifierCard",
    "certified_model",
    "certified_radius",
    "certify",
    "register",
]
