"""Floor 5: published findings as protocols that anyone can run; one file for each claim."""

from importlib import import_module as _import_module
from pkgutil import iter_modules as _iter_modules

from robustscope.claims.cards import CLAIMS, ClaimCard, Effect, Evidence, Plot, Rule, Verdict, register
from robustscope.claims.lab import Batch, Lab, Setting, Subject
from robustscope.claims.run import run_claim, run_claims

for _module in _iter_modules(__path__):
    _import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CLAIMS",
    "Batch",
    "ClaimCard",
    "Effect",
    "Evidence",
    "Lab",
    "Plot",
    "Rule",
    "Setting",
    "Subject",
    "Verdict",
    "register",
    "run_claim",
    "run_claims",
]
