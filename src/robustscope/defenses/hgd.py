"""The high-level representation guided denoiser: a small U-shaped network that subtracts what an attack has added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscope.core.draws import Draws, permutation
from robustscope.core.errors import InvalidValue
from robustscope.defenses.apply import check_count, check_pictures
from robustscope.models.classifier import Classifier
from robustscope.models.defended import Transformation
from robustscope.models.features import tap

Guide = Literal["pixels", "features", "logits", "classes"]

BIBTEX = """@inproceedings{liao2018defense,
  title = {Defense against Adversarial Attacks Using High-Level Representation Guided Denoiser},
  author = {Liao, Fangzhou and Liang, Ming and Dong, Yinpeng and Pang, Tianyu and Hu, Xiaolin and Zhu, Jun},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}"""


class Dunet(nn.Module):
    """A denoising U-net: x + D(x), with D an encoder and a decoder joined at every scale.

    Stages of the encoder after the first halve the picture; the decoder enlarges bilinearly to the size of the stage
    it is joined with, so any height and width from 1 up will do. Every convolution is 3 x 3 with batch norm and ReLU,
    the last one 1 x 1 without bias.

    Args:
        channels: C, of the pictures.
        widths: channels of the stages of the encoder; the paper: 64, 128, 256, 256, 256.
        depths: convolutions of each stage; the paper: 2, 3, 3, 3, 3. None means 2 and then 3 each.

    Raises:
        InvalidValue: for no stages, or another number of depths.

    Source: Liao et al. 2018, arXiv:1712.02976, Sec. 4.1, Fig. 3.
    """

    def __init__(
        self, channels: int, widths: Sequence[int] = (64, 128, 256, 256, 256), depths: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        depths = [2] + [3] * (len(widths) - 1) if depths is None else list(depths)
        if not widths or len(depths) != len(widths) or min(*widths, *depths, channels) < 1:
            raise InvalidValue(
                f"channels={channels}, widths={tuple(widths)} and depths={tuple(depths)} were given",
                "as many depths as widths, all >= 1, are allowed",
                "Leave depths out.",
            )
        self.widths, self.depths = tuple(widths), tuple(depths)
        down, before = [], channels
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            down.append(_stage(before, width, depth, 1 if stage == 0 else 2))
            before = width
        up = []
        for width, depth in list(zip(widths, depths, strict=True))[-2::-1]:
            up.append(_stage(before + width, width, depth, 1))
            before = width
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = nn.Conv2d(before, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return denoised pictures (B, C, H, W); they may leave the bounds."""
        seen = []
        z = x
        for stage in self.down:
            z = stage(z)
            seen.append(z)
        for stage, joined in zip(self.up, seen[-2::-1], strict=True):
            z = F.interpolate(z, size=joined.shape[2:], mode="bilinear", align_corners=False)
            z = stage(torch.cat([z, joined], 1))
        return x + self.last(z)


def _stage(before: int, width: int, depth: int, stride: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for number in range(depth):
        # Three by three with a margin of one: the size is kept, or halved and rounded up.
        conv = nn.Conv2d(before if number == 0 else width, width, 3, stride if number == 0 else 1, 1, bias=False)
        parts += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*parts)


def build_dunet(channels: int, widths: Sequence[int], depths: Sequence[int] | None = None, seed: int = 0) -> Dunet:
    """Return an untrained network whose weights depend on the seed alone; D is zero, so that it changes nothing yet.

    Args:
        channels: C, of the pictures.
        widths: channels of the stages.
        depths: convolutions of each stage.
        seed: decides the weights.
    """
    with torch.random.fork_rng(devices=[]):
        network = Dunet(channels, widths, depths)
    draws = Draws(seed, (0,), "hgd")
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.dim() == 4:
                scale = (2 / tensor[0].numel()) ** 0.5
                tensor.copy_(scale * draws.normal(name, tensor[None])[0])
        network.last.weight.zero_()
    return network


def fit_denoiser(
    target: Classifier,
    x_clean: Tensor,
    x_adv: Tensor,
    guide: Guide = "logits",
    *,
    y: Tensor | None = None,
    layer: str | None = None,
    network: Dunet | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Dunet:
    """Train a denoiser D so that the target sees in x_adv + D(x_adv) what it sees in the clean picture.

    The loss is the mean absolute difference between clean and denoised picture ("pixels"), between the target's
    activations of ``layer`` on both ("features") or between its logits ("logits"); or the cross-entropy of the true
    class ("classes"). The target is used and not changed: no mode, weight, gradient or hook.

    Args:
        target: classifier that guides; also the one to be defended in the usual case.
        x_clean: (N, C, H, W), clean pictures inside the bounds.
        x_adv: (N, C, H, W), adversarial examples of the same pictures.
        guide: what is compared.
        y: int64 (N,), true classes; needed by "classes".
        layer: name of a submodule of the target; needed by "features".
        network: where training starts; None builds one of widths 16, 32, 32. It is not changed.
        epochs: passes over the pairs, >= 1.
        batch_size: pairs for each step, >= 1.
        learning_rate: of Adam, > 0.
        seed: decides first weights and order.

    Returns:
        The trained network in evaluation mode.

    Raises:
        InvalidValue: for pairs that do not fit, hyper-parameters out of range, or a guide without what it needs.

    Source: Liao et al. 2018, arXiv:1712.02976, Sec. 4.

    Departures: examples come from whatever attack made ``x_adv``; the paper mixes nine attacks on an ensemble. Nothing
        is rescaled between guides.
    """
    check_count(epochs=epochs, batch_size=batch_size)
    check_pictures(x_clean, "fit_denoiser")
    target.check_inputs(x_clean, y)
    target.check_inputs(x_adv)
    fits = x_adv.shape == x_clean.shape and x_adv.dtype == x_clean.dtype and len(x_clean)
    if not fits or not 0 < learning_rate < float("inf"):
        raise InvalidValue(
            f"pairs of shapes {tuple(x_clean.shape)} and {tuple(x_adv.shape)}, learning_rate={learning_rate} were given",
            "one example for each clean picture, and a finite rate > 0, are allowed",
            "Attack x_clean and pass what comes back.",
        )
    loss = _loss(target, guide, layer, y)
    network = _own(network, x_clean, seed)
    parameters = list(network.parameters())
    adam = _Adam(parameters, learning_rate)
    for epoch in range(epochs):
        order = torch.tensor(permutation(seed, f"hgd/{epoch}", len(x_clean)))
        for rows in order.to(x_clean.device).split(batch_size):
            network.train(len(rows) > 1)
            with torch.enable_grad():
                value = loss(network(x_adv[rows]), x_clean[rows], rows).mean()
                # The target's weights get no gradients this way.
                gradients = torch.autograd.grad(value, parameters)
            adam.step(gradients)
    return network.eval()


class _Adam:
    """Adam with its usual constants; the first use of torch.optim imports torch's compiler, which takes longer."""

    def __init__(self, parameters: Sequence[Tensor], rate: float) -> None:
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.means, self.squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step down."""
        self.steps += 1
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        for p, g, mean, square in zip(self.parameters, gradients, self.means, self.squares, strict=True):
            mean.lerp_(g, 0.1)
            square.mul_(0.999).addcmul_(g, g, value=0.001)
            p.sub_(self.rate / first * mean / ((square / second).sqrt() + 1e-8))


def _own(network: Dunet | None, x: Tensor, seed: int) -> Dunet:
    """Return a network to train: a copy of the given one, or a new one."""
    if network is None:
        return build_dunet(x.shape[1], (16, 32, 32), seed=seed).to(x)
    twin = build_dunet(network.last.out_channels, network.widths, network.depths, seed).to(x)
    twin.load_state_dict(network.state_dict())
    return twin


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _loss(target: Classifier, guide: Guide, layer: str | None, y: Tensor | None) -> Loss:
    """Return the per-sample loss ``(denoised, clean, rows) -> (b,)``."""
    if guide not in get_args(Guide) or (guide == "features" and layer is None) or (guide == "classes" and y is None):
        raise InvalidValue(
            f"guide={guide!r}, layer={layer!r} and {'no ' if y is None else ''}classes were given",
            f"one of {get_args(Guide)} is allowed; 'features' needs layer=, 'classes' needs y=",
            "Say guide='logits' if in doubt: it did best in the paper.",
        )
    if guide == "pixels":
        return lambda denoised, clean, rows: (denoised - clean).abs().flatten(1).mean(1)
    if guide == "classes":
        assert y is not None
        labels = y
        return lambda denoised, clean, rows: F.cross_entropy(target._outputs(denoised), labels[rows], reduction="none")

    def compared(denoised: Tensor, clean: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = seen(clean)
        return (seen(denoised) - wanted).abs().flatten(1).mean(1)

    def seen(x: Tensor) -> Tensor:
        if guide == "logits":
            return target._outputs(x)
        assert layer is not None
        caught: list[Tensor] = []
        handle = target.module.get_submodule(layer).register_forward_hook(lambda m, i, out: caught.append(out))
        try:
            target._outputs(x)
        finally:
            handle.remove()
        return caught[0]

    return compared


def denoising(network: Dunet) -> Transformation:
    """Return the transformation that a trained denoiser is: deterministic, with its own derivative.

    Args:
        network: what :func:`fit_denoiser` returned.
    """
    return Transformation("hgd", network, backward="exact")


def amplification(target: Classifier, x_clean: Tensor, x_adv: Tensor, layers: Sequence[str]) -> dict[str, float]:
    """Return how much of the difference between two batches each layer of a network sees, relative to its activations.

    The mean over samples of sum |f_l(x_adv) - f_l(x_clean)| / sum |f_l(x_clean)|: the residual that the denoiser is
    to remove grows from layer to layer.

    Args:
        target: the network.
        x_clean: (B, *S).
        x_adv: (B, *S).
        layers: names of submodules.

    Source: Liao et al. 2018, arXiv:1712.02976, Sec. 3, Fig. 2.
    """
    out = {}
    classes = target.classes(x_clean)
    for name in layers:
        tapped = tap(target, name)
        clean, moved = (part[:, classes + 1 :] - part[:, classes : classes + 1] for part in
                        (tapped.logits(x_clean), tapped.logits(x_adv)))  # fmt: skip
        size = clean.abs().sum(1).clamp(min=torch.finfo(clean.dtype).tiny)
        out[name] = float(((moved - clean).abs().sum(1) / size).double().mean())
    return out
