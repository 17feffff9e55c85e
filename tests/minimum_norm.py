"""What the tests of minimum-norm attacks share: problems whose nearest adversarial example is known."""

from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

import digits_bed
from robustscope.attacks.compose import attack
from robustscope.core.types import ThreatModel
from robustscope.data.problems import linear_distance
from robustscope.models.classifier import Classifier


def robust_counts(name, norm, epsilons, **parameters):
    """Attack all 797 digits without a limit; return for each epsilon how many stay robust, and the exact number."""
    weight, bias, x, y = digits_bed.fitted()
    exact = linear_distance(norm, weight, bias, x, y)
    layer = nn.Linear(64, 10, dtype=x.dtype)
    layer.weight.data, layer.bias.data = weight, bias
    verdict = attack(name, Classifier(layer.eval(), batch_size=1000), x, y, f"{norm}:inf", **parameters).verdict
    found = torch.where(verdict.success, verdict.distance, torch.inf)
    return {epsilon: (int((found > epsilon).sum()), int((exact > epsilon).sum())) for epsilon in epsilons}


class Quadratic(nn.Module):
    """Logits (f, 0) with f(x) = x'Ax + b'x + c."""

    def __init__(self, matrix, vector, constant):
        super().__init__()
        self.matrix, self.vector, self.constant = nn.Parameter(matrix), nn.Parameter(vector), constant

    def forward(self, x):
        value = ((x @ self.matrix) * x).sum(1) + x @ self.vector + self.constant
        return torch.stack([value, torch.zeros_like(value)], 1)


@cache
def quadratics(number=8, size=6):
    """Quadratic models, each with one sample of class 0 and its exact l2 distance to the boundary.

    With H = 2Ax + b the nearest point is x - (I + mu A)^-1 mu H / 2 for the root mu > 0 of f in the interval where
    I + mu A is positive definite; draws without a root there (the hard case, or no boundary) and draws whose nearest
    point lies outside the bounds are passed over.
    """
    generator = np.random.default_rng(3)
    found = []
    while len(found) < number:
        raw = generator.normal(size=(size, size))
        matrix, x = (raw + raw.T) / 2, generator.uniform(0.3, 0.7, size)
        vector = generator.normal(size=size)
        constant = generator.uniform(0.1, 0.3) - x @ matrix @ x - vector @ x
        slope = 2 * matrix @ x + vector
        lowest = np.linalg.eigvalsh(matrix)[0]
        end = (1 - 1e-9) / -lowest if lowest < 0 else 1e6

        def step(mu, matrix=matrix, slope=slope):
            return -mu / 2 * np.linalg.solve(np.eye(size) + mu * matrix, slope)

        def value(mu, matrix=matrix, vector=vector, constant=constant, x=x, step=step):
            z = x + step(mu)
            return z @ matrix @ z + vector @ z + constant

        if value(0) <= 0 or value(end) >= 0:
            continue
        nearest = step(brentq(value, 0, end, xtol=1e-15))
        if np.abs(x + nearest - 0.5).max() < 0.5:
            module = Quadratic(torch.tensor(matrix), torch.tensor(vector), float(constant)).eval()
            found.append((Classifier(module), torch.tensor(x)[None], float(np.linalg.norm(nearest))))
    return tuple(found)


def quadratic_ratios(name, **parameters):
    """Found over exact l2 distance for each quadratic; infinity where nothing was found."""
    out = []
    for model, x, exact in quadratics():
        threat = ThreatModel("l2", "inf")
        verdict = attack(name, model, x, torch.zeros(1, dtype=torch.int64), threat, **parameters).verdict
        out.append(verdict.distance[0].item() / exact if verdict.success[0] else float("inf"))
    return torch.tensor(out)
