"""Floor 4: tables in, tables out. No torch, no model, no file: a number in a report comes from here and nowhere else.

Every analysis is a pure function ``(table, plan) -> DataFrame`` of the per-sample table of a run, or, in ``MEASURED``,
``(table, measured, plan) -> DataFrame`` of that and of what was measured beside attacks. Adding a file to this folder
registers it.
"""

from __future__ import annotations

import importlib
import pkgutil

from robustscope.analyses._common import ANALYSES, MEASURED, AnalysisCard

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ANALYSES", "MEASURED", "AnalysisCard"]
