"""Floor 6: checks that every registered thing must pass, shipped so that others can run them on their own.

``check("my_module:my_attack")`` runs the contract of attacks on a function that follows the signature of
:class:`robustscope.attacks.cards.Attack`.
"""

from robustscope.contracts.attacks import CHECKS, checks_for
from robustscope.contracts.broken import ContractBroken
from robustscope.contracts.runner import CheckResult, check, load_card, run_check, run_checks

__all__ = ["CHECKS", "CheckResult", "ContractBroken", "check", "checks_for", "load_card", "run_check", "run_checks"]
