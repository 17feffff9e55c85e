"""The traced network is the module; what cannot be bounded is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustscope.certify.graph import trace
from robustscope.certify.layers import CALLS
from robustscope.contracts.trial import ModelWatch
from robustscope.core.errors import InvalidValue, ModelError
from robustscope.data import problems
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier
from robustscope.models.layers import build
from robustscope.models.loading import load_model

SHARED = Path(__file__).resolve().parents[3] / "shared"


class Written(nn.Module):
    """Uses functions and methods of torch where others use layers."""

    def __init__(self, step):
        super().__init__()
        self.step, self.linear = step, nn.Linear(2 * 6 * 6, 5)
        self.register_buffer("mean", torch.tensor([0.3, 0.6]).view(1, 2, 1, 1))

    def forward(self, x):
        x = self.step(x)
        return self.linear(x.contiguous().view(x.size(0), -1))


def centred(self):
    return lambda x: (x - self.mean) / 0.25


STEPS = {
    "arithmetic": lambda x: 2 * (1 - x) / 3 - -x * 0.5,
    "in place": lambda x: F.relu_(x.sub(0.5)).add_(1.0).mul_(2),
    "in place, and read again": lambda x: (lambda z: F.relu(z, inplace=True) + z)(x - 0.5),
    "clips": lambda x: (x * 4).clamp(1, 2) + x.clamp(min=0.4) + torch.clamp(x, max=0.6) + F.hardtanh(x, 0.2, 0.7),
    "axes": lambda x: x.permute(0, 2, 3, 1).transpose(1, 3).transpose(2, 3).contiguous(),
    "slices": lambda x: torch.cat([x[:, :1], x[:, 1].unsqueeze(1)], dim=1)[..., :6],
    "padding": lambda x: F.pad(x, (1, 1, 0, 0), value=0.5)[:, :, :, 1:7],
    "means": lambda x: x - 0.5 + 0 * x + F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) + F.max_pool2d(x, 3, 1, 1),
    "shapes": lambda x: x.flatten(1).reshape(x.shape[0], 2, 6, 6),
    "curves": lambda x: torch.sigmoid(4 * x) + x.tanh() + F.softplus(x) + F.leaky_relu(x - 0.5, 0.1) + F.relu6(9 * x),
    "convolution": lambda x: F.conv2d(x, torch.ones(2, 1, 3, 3, dtype=x.dtype), padding=1, groups=2),
}


def inputs(*shape, dtype=torch.float64):
    return problems._samples(3, shape[0], *shape[1:]).to(dtype)


@pytest.mark.parametrize("name", STEPS)
def test_functions_and_methods(name):
    module = Written(STEPS[name]).double().eval()
    x = inputs(5, 2, 6, 6)
    graph, logits = trace(Classifier(module), x)
    assert torch.allclose(graph.evaluate(x), logits, rtol=0, atol=1e-12)
    other = inputs(7, 2, 6, 6).flip(0)
    assert torch.allclose(graph.evaluate(other), module(other), rtol=0, atol=1e-12)


def test_every_kind_of_step_has_a_handler():
    assert {"relu", "mean", torch.cat, F.pad, F.linear, getattr} <= set(CALLS)


LAYERS = {
    "residual": [
        {"type": "conv2d", "in": 2, "out": 4, "kernel": 3, "padding": 1},
        {"type": "batchnorm2d", "channels": 4},
        {"type": "relu"},
        {
            "type": "residual_add",
            "main": [
                {"type": "conv2d", "in": 4, "out": 8, "kernel": 3, "stride": 2, "padding": 1},
                {"type": "relu"},
                {"type": "conv2d", "in": 8, "out": 8, "kernel": 3, "padding": 1},
            ],
            "shortcut": [{"type": "subsample_and_zero_pad_channels", "spatial_stride": 2, "pad_each_side": 2}],
        },
        {"type": "relu"},
        {"type": "global_avgpool2d"},
        {"type": "linear", "in": 8, "out": 5},
        {"type": "batchnorm1d", "channels": 5},
    ],
    "pooled": [
        {"type": "conv2d", "in": 2, "out": 4, "kernel": 3, "padding": 1},
        {"type": "maxpool2d", "kernel": 2},
        {"type": "identity"},
        {"type": "avgpool2d", "kernel": 3, "stride": 1, "padding": 1},
        {"type": "flatten"},
        {"type": "linear", "in": 36, "out": 5},
    ],
    "tokens": [
        {"type": "patch_embedding", "in": 2, "dim": 4, "patch": 3, "tokens": 5},
        {"type": "batchnorm_tokens", "dim": 4},
        {"type": "linear", "in": 4, "out": 5},
        {"type": "relu"},
        {"type": "mean_over_tokens"},
    ],
}


def built(name):
    module = build(LAYERS[name])
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fresh = problems._numbers(1, key, *tensor.shape)
            tensor.copy_(fresh.abs() + 0.5 if "var" in key else fresh / max(tensor[0].numel(), 1) ** 0.5)
    return module.double().eval()


@pytest.mark.parametrize("name", ["residual", "pooled"])
def test_architecture_cards(name):
    model = Classifier(built(name), mean=(0.3, 0.5), std=(0.2, 0.3))
    x = inputs(5, 2, 6, 6)
    before = ModelWatch(model.module)
    graph, logits = trace(model, x)
    assert before.changes() == []
    assert torch.allclose(graph.evaluate(x), logits, rtol=0, atol=1e-12)
    assert graph.classes == 5
    assert model.ledger.forward == 5


def test_a_bare_layer_is_a_network():
    x = inputs(3, 7)
    graph, logits = trace(Classifier(nn.Linear(7, 4).double().eval()), x)
    assert torch.allclose(graph.evaluate(x), logits)
    assert len(graph.nodes) == 2


def test_float32_agrees_with_the_module():
    module = built("residual").float()
    x = inputs(5, 2, 6, 6, dtype=torch.float32)
    graph, logits = trace(Classifier(module), x)
    assert torch.allclose(graph.evaluate(x), logits, rtol=0, atol=1e-5)
    assert graph.evaluate(x).dtype == torch.float32


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.mean() > 0 else -x.flatten(1)


REFUSED = {
    "Softmax": nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Softmax(1)),
    "GELU (1)": nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(72, 5)),
    "product of two values": Written(lambda x: x * x),
    "softmax": Written(lambda x: x.softmax(1)),
    "across the samples": Written(lambda x: x - x.mean(0, keepdim=True)),
    "padding_mode='reflect'": nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(72, 5)
    ),
    "running statistics": nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(72, 5)),
    "negative_slope=1.5": nn.Sequential(nn.Flatten(), nn.LeakyReLU(1.5), nn.Linear(72, 5)),
    "cannot be traced": Branching(),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_bounded_is_refused_by_name(words):
    with pytest.raises(InvalidValue, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        trace(Classifier(REFUSED[words].double().eval()), inputs(2, 2, 6, 6))
    assert caught.value.remedy


def test_the_shared_transformer_is_refused_by_name():
    module = build([*LAYERS["tokens"][:2], {"type": "multi_head_self_attention", "dim": 4, "heads": 2, "scale": 1.0}])
    with pytest.raises(InvalidValue, match=r"PatchEmbedding \(0.0\) cannot be traced"):
        trace(Classifier(nn.Sequential(module, nn.Flatten(), nn.Linear(20, 5)).double().eval()), inputs(2, 2, 6, 6))


def test_a_black_box_is_refused_and_not_asked():
    asked = []
    box = BlackBox(lambda x: asked.append(x), answers="scores", num_classes=3)
    with pytest.raises(InvalidValue, match="black box that gives scores"):
        trace(Classifier(box), inputs(2, 2, 6, 6))
    assert not asked


def test_a_hook_that_changes_results_is_noticed():
    module = built("pooled")
    module[0].register_forward_hook(lambda layer, given, result: result * 1.01)
    with pytest.raises(ModelError, match="differ from the module's"):
        trace(Classifier(module), inputs(3, 2, 6, 6))


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the shared models are not beside the project")
def test_every_shared_network_is_traced_or_refused():
    refused = []
    for path in sorted((SHARED / "models").glob("*.json")):
        model = load_model(str(path)).classifier
        shape = (3, 32, 32) if path.stem.startswith("cifar10") else (1, 28, 28)
        x = inputs(2, *shape)
        double = Classifier(model.module.double(), model.bounds, model.mean, model.std)
        try:
            graph, logits = trace(double, x)
        except InvalidValue:
            refused.append(path.stem)
        else:
            assert torch.allclose(graph.evaluate(x), logits, rtol=1e-10, atol=1e-10), path.stem
    assert refused == ["cifar10_vit_pgd_2_3_16"]
