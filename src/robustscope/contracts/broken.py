"""The error of a contract that a method does not keep."""

from __future__ import annotations

from robustscope.core.errors import RobustscopeError


class ContractBroken(RobustscopeError, AssertionError):
    """A registered method does not do what every method of its kind must do."""
