"""Automatic flags about the model itself, measured on a few samples while a run is carried out."""

from __future__ import annotations

from torch import Tensor, nn

from robustscope.core.types import Finding
from robustscope.models.classifier import Classifier
from robustscope.models.randomness import kept_randomness
from robustscope.probes.doctor_case import Case
from robustscope.probes.doctor_model import (
    check_determinism,
    check_dynamic,
    check_gradients,
    check_layers,
    check_outputs,
    check_probabilities,
)

SAMPLES = 16
COST = (10, 2)
"""Most rows forward and backward that a sample costs."""


class Counted(nn.Module):
    """A network whose rows are counted where they pass."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.inner, self._ledger = model.module, model.ledger
        self.eval()

    def _passed(self, gradient: Tensor) -> None:
        self._ledger.backward += len(gradient)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network returns."""
        self._ledger.forward += len(x)
        logits = self.inner(x)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._passed)
        return logits


def measure_flags(model: Classifier, x: Tensor, y: Tensor) -> list[Finding]:
    """Look for what makes an evaluation by gradients doubtful: the checks of the doctor that an attack depends on.

    Checked: quantised, integer or half-precision layers; softmax outputs; outputs that change from pass to pass or
    with the company in the batch; gradients that are exactly zero or do not exist; autograd called inside forward.

    Args:
        model: classifier; the rows that are sent pass its ledger.
        x: (B, *S), inputs; the first ``SAMPLES`` are used.
        y: int64 (B,), true classes.

    Returns:
        The findings with something to say; none where all is well, or where the model does not run at all.

    Source: Croce & Hein 2020, the flags of the AutoAttack package; `robustscope doctor` for the rest.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> measure_flags(Classifier(net), torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))
        []
    """
    few = slice(0, SAMPLES)
    with kept_randomness():
        case = Case(model.module, x[few], y[few], None, model.mean, model.std, model.bounds)
        findings = [check_layers(case)]
        case.module = Counted(model)
        if check_outputs(case).level == "error":
            return []
        findings += [check(case) for check in (check_probabilities, check_determinism, check_gradients, check_dynamic)]
    return [finding for finding in findings if finding.level in ("warning", "error")]
