"""Latent-space performance metrics: how a classifier fares on what a generative model of the data calls nearby."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.limits.cards import check_labels, check_positive, register
from robustscope.limits.generators import Generator
from robustscope.limits.latent_search import LatentSearch, SearchPlan, search
from robustscope.models.classifier import Classifier

BUZHINSKY = """@article{buzhinsky2020metrics,
  title = {Metrics and methods for robustness evaluation of neural networks with generative models},
  author = {Buzhinsky, Igor and Nerinovsky, Arseny and Tripakis, Stavros},
  journal = {arXiv preprint arXiv:2003.01993},
  year = {2020}
}"""


@dataclass(frozen=True)
class Share:
    """k of n samples.

    Args:
        k: samples that count.
        n: all of them.
    """

    k: int
    n: int

    @property
    def value(self) -> float:
        """The fraction."""
        return self.k / self.n

    @classmethod
    def of(cls, mask: Tensor) -> Share:
        """Count a mask (n,)."""
        return cls(int(mask.sum()), len(mask))


@dataclass(frozen=True)
class Severity:
    """How far codes had to move; scaled latent lengths, in which a typical code has length 1.

    Args:
        search: what was found for each sample.
        centre: samples classified correctly at the decayed code, from which the search starts.
    """

    search: LatentSearch
    centre: Share

    @property
    def found(self) -> Share:
        """Samples for which a perturbation was found, of those that were classified correctly at their centre."""
        attempted = self.search.radius > 0
        return Share(int(torch.isfinite(self.search.radius[attempted]).sum()), int(attempted.sum()))

    @property
    def mean(self) -> float:
        """Mean length of the perturbations found, centres misclassified left out; NaN where none was found."""
        return float(self.search.radius[self._counted].mean())

    @property
    def mean_change(self) -> float:
        """Mean of the same in the input space, ||.||_2 / sqrt(d), in the units of the inputs."""
        return float(self.search.change[self._counted].mean())

    @property
    def _counted(self) -> Tensor:
        return torch.isfinite(self.search.radius) & (self.search.radius > 0)


@dataclass(frozen=True)
class LatentMetrics:
    """The seven latent-space metrics of a classifier; they are relative to the generative model.

    Args:
        generation_accuracy: LGA, on inputs generated from random codes.
        reconstruction_accuracy: LRA, on inputs that were encoded and decoded.
        noise_accuracy: LLNA, level -> on reconstructions whose codes have noise of this level.
        generation_severity: LAGS, around generated inputs.
        reconstruction_severity: LARS, around reconstructions.
        generation_adversarial_accuracy: LAGA, correct at every code found within ``rho``, of generated inputs.
        reconstruction_adversarial_accuracy: LARA, the same of reconstructions.
        clean_accuracy: on the inputs themselves, beside LRA: the difference is the generator's.
        rho: scaled latent length.
        decay: share of a code taken away before the search.
        latent: values of a code.
        outside: share of reconstructed values outside the bounds of the classifier, which are not enforced.
        n: samples, of which as many again were generated.
    """

    generation_accuracy: Share
    reconstruction_accuracy: Share
    noise_accuracy: dict[float, Share]
    generation_severity: Severity
    reconstruction_severity: Severity
    generation_adversarial_accuracy: Share
    reconstruction_adversarial_accuracy: Share
    clean_accuracy: Share
    rho: float
    decay: float
    latent: int
    outside: float
    n: int
    subject: Literal["classifier"] = "classifier"


@register(
    "latent",
    version=1,
    source="Buzhinsky, Nerinovsky & Tripakis, 2020, arXiv:2003.01993, Sec. 4",
    bibtex=BUZHINSKY,
    subject="classifier",
    direction="estimate",
    quantity="accuracy on and lengths of latent perturbations",
    quick={"plan": SearchPlan(repeats=2, steps=10)},
)
def latent_metrics(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    generator: Generator,
    *,
    draws: Draws,
    noise: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    decay_level: float = 1.0,
    rho: float = 0.3,
    plan: SearchPlan | None = None,
) -> LatentMetrics:
    """Measure a classifier on codes near those of real and of generated inputs.

    A code with noise n of level e is (code + e n) / sqrt(1 + e^2), which is again standard normal. The searches start
    from the decayed code, code / sqrt(1 + e^2), the mean of the noisy ones, and look for the nearest code of the same
    class whose input is misclassified.

    Args:
        model: classifier under test.
        x: (n, *S), inputs inside the bounds.
        y: int64 (n,), true classes; as many inputs of each class are generated.
        generator: for instance :class:`~robustscope.limits.generators.PPCA` fitted on training data, or your own.
        draws: decide generated codes, noise and starts of these samples.
        noise: levels of the noise accuracy, each > 0.
        decay_level: level whose decay is taken away before the searches, > 0.
        rho: scaled latent length of the two adversarial accuracies, > 0.
        plan: of the searches; None takes the paper's for MNIST.

    Returns:
        All seven metrics with counts. A robust classifier need not be better in them, and a class that the generator
        draws badly makes them worse.

    Raises:
        InvalidType: for labels that are no integers.
        InvalidValue: for levels or lengths out of range, or a generator whose inputs have another shape.
        ModelError: for a generator without gradients.

    Source: Buzhinsky, Nerinovsky & Tripakis 2020, arXiv:2003.01993, Sec. 4.

    Departures: both adversarial accuracies are read off the lengths found, so that they cannot contradict the
        severities; inputs misclassified at their centre are left out of the means and counted beside them.
    """
    check_positive(rho=rho, decay_level=decay_level, **{f"noise {level}": level for level in noise})
    model.check_inputs(x, y)
    check_labels(y, len(x), classes=len(y.unique()))
    steps = SearchPlan() if plan is None else plan
    codes = generator.encode(x, y).detach()
    if codes.shape != (len(x), generator.latent) or generator.decode(codes[:1], y[:1]).shape[1:] != x.shape[1:]:
        raise InvalidValue(
            f"a generator with codes {tuple(codes.shape)} was given for inputs of shape {tuple(x.shape[1:])}",
            "codes (n, latent) that decode to the shape of the inputs are allowed",
            "Fit the generator on the same kind of data.",
        )
    own = draws.within("latent")
    fresh = own.normal("generated", codes)
    reconstructed = generator.decode(codes, y).detach()
    noisy = {level: (codes + level * own.normal(f"noise/{level}", codes)) / math.sqrt(1 + level**2) for level in noise}
    keep = 1 / math.sqrt(1 + decay_level**2)
    real, made = (
        _severity(search(model, generator, keep * start, y, draws=own.within(name), plan=steps))
        for name, start in (("reconstruction", codes), ("generation", fresh))
    )
    lower, upper = model.bounds
    return LatentMetrics(
        generation_accuracy=_right(model, generator.decode(fresh, y), y),
        reconstruction_accuracy=_right(model, reconstructed, y),
        noise_accuracy={level: _right(model, generator.decode(code, y), y) for level, code in noisy.items()},
        generation_severity=made,
        reconstruction_severity=real,
        generation_adversarial_accuracy=Share.of(made.search.radius > rho),
        reconstruction_adversarial_accuracy=Share.of(real.search.radius > rho),
        clean_accuracy=_right(model, x, y),
        rho=rho,
        decay=1 - keep,
        latent=generator.latent,
        outside=float(((reconstructed < lower) | (reconstructed > upper)).double().mean()),
        n=len(x),
    )


def _right(model: Classifier, x: Tensor, y: Tensor) -> Share:
    return Share.of(model.decisions(x.detach()) == y)


def _severity(found: LatentSearch) -> Severity:
    return Severity(found, Share.of(found.radius > 0))
