"""Floor 6: the record rendered. No torch: a report shows what is stored and can recompute nothing."""

from __future__ import annotations

from robustscope.reports.summary import summarise
from robustscope.reports.write import write_report

__all__ = ["summarise", "write_report"]
