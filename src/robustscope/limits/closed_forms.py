"""Models of data with closed forms: what robust learning costs in samples (Schmidt) and in accuracy (Tsipras)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.limits.cards import check_at_least, check_positive, check_share, register

SCHMIDT = """@inproceedings{schmidt2018adversarially,
  title = {Adversarially Robust Generalization Requires More Data},
  author = {Schmidt, Ludwig and Santurkar, Shibani and Tsipras, Dimitris and Talwar, Kunal and Madry, Aleksander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""
TSIPRAS = """@inproceedings{tsipras2019robustness,
  title = {Robustness May Be at Odds with Accuracy},
  author = {Tsipras, Dimitris and Santurkar, Shibani and Engstrom, Logan and Turner, Alexander and Madry, Aleksander},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""
MOST = 2**40


@dataclass(frozen=True)
class ClosedForm:
    """Errors under an linf adversary in a model of data, known exactly or in the limit of many values.

    Args:
        model: which model, with its constants.
        epsilon: linf radius, in the units of the inputs, which have no bounds.
        standard: probability of an error without an adversary.
        robust: probability of an error under attack.
        samples: training samples that the classifier was learned from, or None where it was given.
    """

    model: str
    epsilon: float
    standard: float
    robust: float
    samples: int | None = None
    subject: Literal["population"] = "population"


@dataclass(frozen=True)
class GaussianModel:
    """Schmidt's Gaussian model: y = +-1 equally likely, x ~ N(y theta, sigma^2 I), theta of length sqrt(d), here all ones.

    Args:
        values: d.
        sigma: standard deviation of each value; d^(1/4) is the scale of the paper.
    """

    values: int
    sigma: float

    def __post_init__(self) -> None:
        check_at_least(1, values=self.values)
        check_positive(sigma=self.sigma)

    def sample(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return one sample for each id: float64 (n, d), int64 (n,) classes, 1 for y = +1 and 0 for y = -1."""
        y = draws.integers("y", 1, 0, 2)[:, 0]
        noise = draws.normal("x", torch.empty(len(y), self.values, dtype=torch.float64))
        return (2 * y - 1)[:, None] + self.sigma * noise, y

    def fit(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the paper's estimator, the mean of y x over samples (n, d) with classes (n,): (d,)."""
        return ((2 * y - 1)[:, None] * x).mean(0)

    def errors(self, weight: Tensor, epsilon: float = 0.0) -> ClosedForm:
        """Return the exact errors of the classifier sign(w.x): Phi(-(w.theta - epsilon ||w||_1) / (sigma ||w||_2)).

        Args:
            weight: (d,), not zero.
            epsilon: linf radius.
        """
        w = weight.double()
        scale = self.sigma * float(w.norm())
        if w.shape != (self.values,) or not 0 < scale < math.inf:
            raise InvalidValue(
                f"a weight of shape {tuple(w.shape)} was given", f"({self.values},), not zero, is allowed", "Fit one."
            )
        along, cost = float(w.sum()), epsilon * float(w.abs().sum())
        standard, robust = (float(ndtr(-gain / scale)) for gain in (along, along - cost))
        return ClosedForm(str(self), epsilon, standard, robust)

    def expected(self, samples: int, epsilon: float = 0.0) -> ClosedForm:
        """Return the errors to expect after learning from n samples, in the limit of many values.

        The learned weights are N(1, sigma^2 / n) each; sums over them are replaced by their means, of which the 1-norm's
        is that of a folded normal law.

        Args:
            samples: n.
            epsilon: linf radius.
        """
        check_at_least(1, samples=samples)
        spread = self.sigma / math.sqrt(samples)
        folded = spread * math.sqrt(2 / math.pi) * math.exp(-0.5 / spread**2) + 1 - 2 * float(ndtr(-1 / spread))
        scale = self.sigma * math.sqrt(1 + spread**2) / math.sqrt(self.values)
        standard, robust = (float(ndtr(-gain / scale)) for gain in (1.0, 1 - epsilon * folded))
        return ClosedForm(str(self), epsilon, standard, robust, samples)

    def sample_complexity(self, epsilon: float, error: float) -> int | None:
        """Return the fewest samples after which the robust error to expect is at most ``error``.

        Returns:
            The number, or None where no number is enough: for epsilon >= 1, or an error below that of the true mean.
        """
        check_share("error", error)
        if epsilon >= 1 or self.expected(MOST, epsilon).robust > error:
            return None
        low, high = 0, 1
        while self.expected(high, epsilon).robust > error:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.expected(middle, epsilon).robust <= error else (middle, high)
        return high


@dataclass(frozen=True)
class BernoulliModel:
    """Schmidt's Bernoulli model: y = +-1 equally likely; each value is y with probability 1/2 + tau, else -y.

    Args:
        values: d.
        tau: strength of each value, in (0, 1/2].
    """

    values: int
    tau: float

    def __post_init__(self) -> None:
        check_at_least(1, values=self.values)
        if not 0 < self.tau <= 0.5:
            raise InvalidValue(f"tau={self.tau} was given", "0 < tau <= 1/2 is allowed", "The paper has d^(-1/4).")

    def sample(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return one sample for each id: float64 (n, d) of +-1, int64 (n,) classes, 1 for y = +1 and 0 for y = -1."""
        y = draws.integers("y", 1, 0, 2)[:, 0]
        unit = draws.uniform("x", torch.empty(len(y), self.values, dtype=torch.float64), 0.0, 1.0)
        return (2 * y - 1)[:, None] * torch.where(unit < 0.5 + self.tau, 1.0, -1.0).double(), y

    def one_sample(self, epsilon: float = 0.0, *, threshold: bool = False) -> ClosedForm:
        """Return the exact errors of sign(w.x) with w = y x of a single training sample.

        A value of a new sample agrees with w with probability 1/2 + 2 tau^2, so the number of agreements is binomial.
        Without an adversary it errs below d / 2 agreements; an adversary of radius epsilon takes epsilon d from the
        score, and wins where nothing is left: at d (1 + epsilon) / 2 agreements or fewer.

        Args:
            epsilon: linf radius.
            threshold: whether the inputs are replaced by their signs first; then no epsilon below 1 changes anything.
        """
        d, agree = self.values, 0.5 + 2 * self.tau**2
        # Agreements strictly below d / 2: a tie is no error.
        standard = float(binom.cdf(math.ceil(d / 2) - 1, d, agree))
        if threshold and epsilon < 1:
            robust = standard
        elif threshold:
            robust = 1.0
        else:
            least = math.floor(d * (1 + epsilon) / 2 * (1 + 1e-12))
            robust = float(binom.cdf(least, d, agree)) if epsilon > 0 else standard
        return ClosedForm(str(self), epsilon, standard, robust, 1)


@dataclass(frozen=True)
class TradeOffModel:
    """Tsipras's model: one value that is right with probability p, and d that are each only slightly right.

    y = +-1 equally likely; x_1 = y with probability p, else -y; x_2 to x_(d+1) ~ N(eta y, 1).

    Args:
        values: d, the weak values.
        p: probability that the strong value is right, in [1/2, 1).
        eta: mean of the weak values, > 0; 3 / sqrt(d) makes them right 99.9 % of the time together.
    """

    values: int
    p: float
    eta: float

    def __post_init__(self) -> None:
        check_at_least(1, values=self.values)
        check_positive(eta=self.eta)
        if not 0.5 <= self.p < 1:
            raise InvalidValue(f"p={self.p} was given", "1/2 <= p < 1 is allowed", "The paper has 0.95.")

    def sample(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return one sample for each id: float64 (n, d + 1), int64 (n,) classes, 1 for y = +1 and 0 for y = -1."""
        y = draws.integers("y", 1, 0, 2)[:, 0]
        sign = (2 * y - 1).double()
        right = draws.uniform("strong", torch.empty(len(y), dtype=torch.float64), 0.0, 1.0) < self.p
        weak = draws.normal("weak", torch.empty(len(y), self.values, dtype=torch.float64)) + self.eta * sign[:, None]
        return torch.cat([torch.where(right, sign, -sign)[:, None], weak], 1), y

    def errors(self, strong: float, epsilon: float = 0.0, *, weak: float | None = None) -> ClosedForm:
        """Return the exact errors of sign(strong x_1 + weak (x_2 + … + x_(d+1))), the adversary moving every value.

        Args:
            strong: weight of x_1.
            epsilon: linf radius; 2 eta turns every weak value against the class.
            weak: weight of each other value; None means 1 / sqrt(d).
        """
        a = 1 / math.sqrt(self.values) if weak is None else weak
        if a == 0 and strong == 0:
            raise InvalidValue("two zero weights were given", "one that is not zero is allowed", "Raise one of them.")

        def accuracy(radius: float) -> float:
            drift = a * self.values * self.eta - radius * (abs(strong) + abs(a) * self.values)
            right, wrong = (_positive(drift + side * strong, abs(a) * math.sqrt(self.values)) for side in (1, -1))
            return self.p * right + (1 - self.p) * wrong

        return ClosedForm(str(self), epsilon, 1 - accuracy(0.0), 1 - accuracy(epsilon))

    def bound(self, standard: float) -> float:
        """Return the upper bound on the robust accuracy at 2 eta of any classifier with this standard error.

        p / (1 - p) times the standard error, at most 1.

        Args:
            standard: probability of an error without an adversary, in [0, 1].
        """
        if not 0 <= standard <= 1:
            raise InvalidValue(f"standard={standard} was given", "a share in [0, 1] is allowed", "Give an error.")
        return min(1.0, self.p / (1 - self.p) * standard)


@register(
    "schmidt_gaussian",
    version=1,
    source="Schmidt et al., 2018, arXiv:1804.11285, Theorems 4 and 5",
    bibtex=SCHMIDT,
    subject="population",
    direction="estimate",
    quantity="errors of the mean estimator after n samples of the Gaussian model",
    norms=("linf",),
)
def schmidt_gaussian(*, values: int = 1000, sigma: float = 5.6, samples: int = 1, epsilon: float = 0.25) -> ClosedForm:
    """Return the errors to expect of a linear classifier learned from few Gaussian samples.

    One sample is enough to classify well, and far from enough to classify robustly; see :class:`GaussianModel` for
    exact errors of given weights, samples, and sample complexities.

    Args:
        values: d.
        sigma: standard deviation of each value; d^(1/4) is the scale of the paper.
        samples: n.
        epsilon: linf radius; the class means are +-1 in each value.

    Returns:
        Standard and robust error in the limit of many values.

    Raises:
        InvalidValue: for counts or deviations out of range.

    Source: Schmidt et al. 2018, arXiv:1804.11285, Sec. 2.1.

    Departures: the theorems have unnamed constants; here the estimator's errors are computed.
    """
    return GaussianModel(values, sigma).expected(samples, epsilon)


@register(
    "schmidt_bernoulli",
    version=1,
    source="Schmidt et al., 2018, arXiv:1804.11285, Theorems 8 and 10",
    bibtex=SCHMIDT,
    subject="population",
    direction="exact",
    quantity="errors after one sample of the Bernoulli model, with and without a threshold",
    norms=("linf",),
)
def schmidt_bernoulli(
    *, values: int = 1000, tau: float = 0.178, epsilon: float = 0.1, threshold: bool = False
) -> ClosedForm:
    """Return the exact errors of a classifier learned from one binary sample.

    Linear, it falls to small radii; with a threshold in front, no radius below 1 changes anything; see
    :class:`BernoulliModel`.

    Args:
        values: d.
        tau: strength of each value.
        epsilon: linf radius; the values are +-1.
        threshold: whether the inputs are replaced by their signs first.

    Returns:
        Standard and robust error.

    Raises:
        InvalidValue: for counts or strengths out of range.

    Source: Schmidt et al. 2018, arXiv:1804.11285, Sec. 2.2.
    """
    return BernoulliModel(values, tau).one_sample(epsilon, threshold=threshold)


@register(
    "tsipras_trade_off",
    version=1,
    source="Tsipras et al., 2019, arXiv:1805.12152, Sec. 2.1",
    bibtex=TSIPRAS,
    subject="population",
    direction="exact",
    quantity="standard and robust error of linear classifiers where the two conflict",
    norms=("linf",),
)
def tsipras_trade_off(
    *, values: int = 1000, p: float = 0.95, eta: float = 0.0949, strong: float = 1.0, epsilon: float = 0.1898
) -> ClosedForm:
    """Return the exact errors of a linear classifier in the model where accuracy is paid for with robustness.

    See :class:`TradeOffModel`; no classifier is right under attack more often than p / (1 - p) times its standard error.

    Args:
        values: d, the weak values.
        p: probability that the strong value is right.
        eta: mean of the weak values.
        strong: weight of the strong value; that of each weak one is 1 / sqrt(d).
        epsilon: linf radius; the paper has 2 eta.

    Returns:
        Standard and robust error.

    Raises:
        InvalidValue: for constants out of range.

    Source: Tsipras et al. 2019, arXiv:1805.12152, Sec. 2.1 and Theorem 2.1.
    """
    return TradeOffModel(values, p, eta).errors(strong, epsilon)


def _positive(mean: float, deviation: float) -> float:
    """Return the probability that N(mean, deviation^2) is above 0; a sure 0 counts as not above."""
    if deviation == 0:
        return float(mean > 0)
    return float(ndtr(mean / deviation))
