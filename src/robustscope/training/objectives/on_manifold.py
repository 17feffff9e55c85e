"""On-manifold adversarial training: adversarial examples among what a generative model of each class can draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.adam import Adam
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.limits.generators import PPCA, Generator
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.network import Losses, Mode, Network
from robustscope.training.samples import Samples

BIBTEX = """@inproceedings{stutz2019disentangling,
  title = {Disentangling Adversarial Robustness and Generalization},
  author = {Stutz, David and Hein, Matthias and Schiele, Bernt},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}"""


def _fit(samples: Samples, parameters: Mapping[str, Any]) -> Generator:
    """Fit the built-in generator on the training samples."""
    x, y = samples.read(list(samples.ids))
    return PPCA.fit(x, y, latent=parameters["latent"])


def _passes(parameters: Mapping[str, Any]) -> Passes:
    share = parameters["clean_share"]
    rows = 1 if share == 1 else parameters["steps"] + (2 if share else 1)
    return Passes(rows, rows)


@register(
    "on_manifold",
    version=1,
    source="Stutz, Hein, Schiele, 2019, arXiv:1812.00740, Sec. 3.4",
    bibtex=BIBTEX,
    kind="regulariser",
    passes=_passes,
    neutral={"clean_share": 1.0},
    quick={"steps": 2, "latent": 2},
    prepare=_fit,
)
def on_manifold(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    radius: float = 0.3,
    limit: float = 2.0,
    steps: int = 40,
    step_size: float = 0.005,
    clean_share: float = 0.5,
    latent: int = 10,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on a * J(x) + (1 - a) * max J(dec(z + d)) over codes with |d|_inf <= radius, z the code of x in its class.

    Such examples stay on the manifold of their class; training on them lowers the test error rather than the error under
    an lp attack. The generator is probabilistic PCA of each class, fitted on the training samples; a better one is handed
    to ``train(..., given=generator)``, anything that has ``latent``, ``encode`` and ``decode`` of
    :class:`robustscope.limits.generators.Generator`.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes, and classes of the generator.
        threat: bounds, to which what is drawn is clipped; its radius is not used.
        draws: random numbers of these samples in this epoch.
        step: holds the generator.
        radius: of the codes, >= 0; the paper takes 0.3.
        limit: largest value of a code; codes of samples are clipped to it too.
        steps: of Adam, >= 0; the paper takes 40.
        step_size: of Adam; the paper takes 0.005.
        clean_share: a, the weight of the clean loss, 0 to 1.
        latent: values of a code of the built-in generator, fewer than the samples of each class.
        mode: mode of the network while codes are searched.

    Raises:
        InvalidValue: for a share outside [0, 1], or a negative radius.

    Source: Stutz et al. 2019, arXiv:1812.00740, Sec. 3.4 and App. E.

    Departures: every sample has both losses, where the authors attack one half of a batch; the built-in generator is
        linear, theirs a VAE-GAN of each class.
    """
    if not 0 <= clean_share <= 1 or not 0 <= radius < float("inf"):
        raise InvalidValue(
            f"clean_share={clean_share} and radius={radius} were given",
            "0 to 1, and a finite radius >= 0, are allowed",
            "The paper takes 0.5 and 0.3.",
        )
    losses = partial(cross_entropy, y=y)
    if clean_share == 1:
        yield Term(losses(network.logits(x)))
        return
    search = _Search(network, step.given, y, losses, threat, radius, limit)
    x_adv = search.furthest(x, draws, steps, step_size, mode)
    value = losses(network.logits(x_adv))
    if clean_share:
        value = clean_share * losses(network.logits(x)) + (1 - clean_share) * value
    yield Term(value)


class _Search:
    """Ascent of the loss in the codes of one batch."""

    def __init__(
        self,
        network: Network,
        generator: Generator,
        y: Tensor,
        losses: Losses,
        threat: ThreatModel,
        radius: float,
        limit: float,
    ) -> None:
        self.network, self.generator, self.y, self.losses = network, generator, y, losses
        self.bounds, self.radius, self.limit = threat.bounds, radius, limit

    def draw(self, codes: Tensor) -> Tensor:
        """Return inputs inside the bounds: (B, *S)."""
        return self.generator.decode(codes, self.y).clamp(*self.bounds)

    def furthest(self, x: Tensor, draws: Draws, steps: int, step_size: float, mode: Mode) -> Tensor:
        """Return what the codes at the end of the ascent stand for: (B, *S), no graph."""
        with torch.no_grad():
            codes = self.generator.encode(x, self.y).clamp(-self.limit, self.limit)
            ray = draws.normal("start", codes)
            length = draws.uniform("start/length", codes[:, :1], 0.0, 1.0) * self.radius
            move = length * ray / ray.abs().amax(1, keepdim=True)
        adam = Adam.begin(codes)
        with self.network.mode(mode):
            for _ in range(steps):
                gradient = self._gradient(self._inside(codes, move))
                move = (move + adam.step(gradient, step_size)).clamp(-self.radius, self.radius)
        with torch.no_grad():
            return self.draw(self._inside(codes, move))

    def _inside(self, codes: Tensor, move: Tensor) -> Tensor:
        return (codes + move).clamp(-self.limit, self.limit)

    def _gradient(self, codes: Tensor) -> Tensor:
        """Return the gradient of the loss in the codes: (B, latent)."""
        with torch.enable_grad():
            leaf = codes.detach().requires_grad_(True)
            point = self.draw(leaf)
            _, slope, _ = self.network.input_gradient(self.losses, point.detach())
            scalar = (point * slope).sum()  # grad_outputs=slope would import a computer algebra system
        return torch.autograd.grad(scalar, leaf)[0]
