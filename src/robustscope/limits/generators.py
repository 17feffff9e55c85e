"""Generative models of each class: what a user's own must offer, and probabilistic PCA as the built-in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.geometry.pairwise import check_sets
from robustscope.limits.cards import check_at_least, check_labels

TIPPING = """@article{tipping1999probabilistic,
  title = {Probabilistic Principal Component Analysis},
  author = {Tipping, Michael E. and Bishop, Christopher M.},
  journal = {Journal of the Royal Statistical Society: Series B},
  volume = {61},
  number = {3},
  pages = {611--622},
  year = {1999}
}"""


class Generator(Protocol):
    """A generative model for each class, whose codes are standard normal.

    Both functions treat samples one by one and leave the global random numbers alone. ``decode`` is differentiable in
    the codes; its values may leave the bounds of the classifier, which are not enforced here.
    """

    @property
    def latent(self) -> int:
        """Values of a code."""
        ...

    def decode(self, codes: Tensor, y: Tensor) -> Tensor:
        """Return the inputs (B, *S) that codes (B, latent) stand for in the classes ``y`` (B,)."""
        ...

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Return codes (B, latent) of inputs (B, *S) of the classes ``y`` (B,)."""
        ...


@dataclass(frozen=True)
class PPCA:
    """Probabilistic principal components of each class: x = mean + W code + noise, fitted in closed form.

    A :class:`Generator`: it decodes to the mean of x given the code, and encodes to the posterior mean of the code given
    x, so that encoding and decoding again shrinks x towards the class mean, the less the smaller the noise.

    Args:
        mean: (K, *S).
        loadings: (K, d, latent), W of each class; its columns are orthogonal.
        noise: (K,), variance of what the components leave, in squared units of x.
        spread: (K, latent), variances along the components, noise included.
    """

    mean: Tensor
    loadings: Tensor
    noise: Tensor
    spread: Tensor

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, *, latent: int = 16) -> PPCA:
        """Return the most likely model: components of the class covariance, the mean of the other variances as noise.

        Args:
            x: (n, *S), floating point.
            y: int64 (n,), all of the classes 0 to K - 1.
            latent: components for each class, fewer than the values of a sample and than the samples of each class.

        Raises:
            InvalidType: for samples or labels of a wrong type.
            InvalidValue: for a class without samples, or with fewer dimensions than components.

        Source: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196, Eqs. (7) and (8).
        """
        check_sets(x)
        check_at_least(1, latent=latent)
        labels = check_labels(y, len(x)).to(x.device)
        flat = x.flatten(1).double()
        parts = [flat[labels == k] for k in range(int(labels.max()) + 1)]
        fewest = min(len(part) for part in parts)
        if latent >= min(flat.shape[1], fewest):
            raise InvalidValue(
                f"latent={latent} was given for {flat.shape[1]} values and a class of {fewest} samples",
                "fewer components than values and than samples of each class 0, 1, … are allowed",
                "Lower latent, or number the classes from 0 without a gap.",
            )
        means, loadings, noises, spreads = [], [], [], []
        for part in parts:
            mean = part.mean(0)
            _, singular, axes = torch.linalg.svd(part - mean, full_matrices=False)
            variance = singular.square() / len(part)
            left = variance[latent:].sum() / (flat.shape[1] - latent)
            spread = variance[:latent]
            if not bool(spread[-1] > 1e-12 * spread[0]):
                raise InvalidValue(
                    f"latent={latent} was given for a class that varies in fewer directions",
                    "at most as many components as directions are allowed",
                    "Lower latent.",
                )
            means.append(mean)
            loadings.append(axes[:latent].T * (spread - left).clamp(min=0).sqrt())
            noises.append(left)
            spreads.append(spread)
        mean = torch.stack(means).view(-1, *x.shape[1:])
        return cls(
            *(part.to(x.dtype) for part in (mean, torch.stack(loadings), torch.stack(noises), torch.stack(spreads)))
        )

    @property
    def latent(self) -> int:
        """Values of a code."""
        return self.loadings.shape[2]

    def decode(self, codes: Tensor, y: Tensor) -> Tensor:
        """Return mean + W code: (B, latent) -> (B, *S)."""
        flat = (self.loadings[y].to(codes.dtype) @ codes[:, :, None])[:, :, 0]
        return self.mean[y].to(codes.dtype) + flat.view(-1, *self.mean.shape[1:])

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the posterior mean of the codes: (B, *S) -> (B, latent)."""
        apart = (x - self.mean[y].to(x.dtype)).flatten(1)
        # W'W + noise I is diagonal, and holds the variances along the components.
        return (self.loadings[y].to(x.dtype).transpose(1, 2) @ apart[:, :, None])[:, :, 0] / self.spread[y].to(x.dtype)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log density of each sample in its class: float64 (B,); -inf off the plane if there is no noise."""
        apart = (x.double() - self.mean[y].double()).flatten(1)
        values = apart.shape[1]
        spread, noise = self.spread[y].double(), self.noise[y].double()
        size = (spread - noise[:, None]).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        along = (self.loadings[y].double().transpose(1, 2) @ apart[:, :, None])[:, :, 0] / size
        rest = (apart.square().sum(1) - along.square().sum(1)).clamp(min=0)
        shape = (along.square() / spread + spread.log()).sum(1)
        return -0.5 * (values * math.log(2 * math.pi) + shape + (values - self.latent) * noise.log() + rest / noise)
