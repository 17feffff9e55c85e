"""Convolutions of few channels: the same values and derivatives as PyTorch's, in whatever form the network calls them."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from robustscope.core.draws import Draws
from robustscope.geometry.balls import dual_length
from robustscope.models.classifier import Classifier
from robustscope.models.convolutions import ThinConvolutions
from robustscope.models.derivatives import reduced_jacobian

CASES = [
    # channels in and out, kernel, stride, padding, taken over
    (1, 4, 3, 1, 1, True),
    (3, 8, 3, 2, 1, True),
    (3, 5, (4, 2), (2, 3), (1, 0), True),
    (4, 6, 1, 2, 0, True),
    (8, 6, 4, 3, 2, True),
    (8, 6, 3, 1, 1, False),
    (9, 6, 3, 2, 1, False),
]


def filled(layer):
    """Return the layer with weights that belong to no global generator."""
    for name, tensor in layer.named_parameters():
        tensor.detach().copy_(Draws(0, (0,), "thin").normal(name, tensor[None].detach())[0] / 3)
    return layer.eval()


def inputs(channels, dtype=torch.float32):
    x = Draws(0, (0, 1, 2), "thin").uniform("x", torch.empty(3, channels, 11, 9, dtype=dtype))
    return x.requires_grad_(True)


def slope(layer, x):
    return torch.autograd.grad(layer(x).sin().sum(), x)[0]


@pytest.mark.parametrize(("channels", "out", "kernel", "stride", "padding", "taken"), CASES)
def test_values_and_derivatives_are_those_of_pytorch(channels, out, kernel, stride, padding, taken):
    layer, x = filled(nn.Conv2d(channels, out, kernel, stride, padding)), inputs(channels)
    with ThinConvolutions():
        found, value = slope(layer, x), layer(x)
    assert torch.equal(value, layer(x))
    assert ("Thin" in value.grad_fn.name()) is taken
    torch.testing.assert_close(found, slope(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: filled(nn.Conv2d(2, 4, 3, dilation=2)),
        lambda: filled(nn.Conv2d(2, 4, 3, groups=2)),
        lambda: filled(nn.Conv2d(2, 4, 3, padding="same")),
        lambda: filled(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
        lambda: lambda x: nn.functional.conv2d(input=x, weight=torch.ones(4, 2, 3, 3)),
        lambda: lambda x: torch.conv2d(x, x[:, :, :3, :3]),
    ],
    ids=["dilated", "grouped", "same", "circular", "keywords", "weights made of inputs"],
)
def test_other_convolutions_are_as_they_were(make):
    layer, x = make(), inputs(2)
    with ThinConvolutions():
        found = slope(layer, x)
    torch.testing.assert_close(found, slope(layer, x), rtol=1e-5, atol=1e-5)


def test_second_derivatives_and_ensembles_pass_through():
    layers, x = [filled(nn.Conv2d(3, 4, 3, 2)), filled(nn.Conv2d(3, 4, 3, 2))], inputs(3)
    parameters, _ = stack_module_state(layers)

    def purified(x):
        (first,) = torch.autograd.grad(layers[0](x).exp().sum(), x, create_graph=True)
        return layers[0](x + 0.1 * first)

    def ensemble(x):
        return vmap(lambda p: functional_call(layers[0], p, (x,)))(parameters)

    for function in (purified, ensemble):
        with ThinConvolutions():
            found = slope(function, x)
        torch.testing.assert_close(found, slope(function, x), rtol=1e-4, atol=1e-4)


def test_gradients_of_several_scores_take_this_way_and_leave_the_model_alone(monkeypatch):
    net = nn.Sequential(filled(nn.Conv2d(3, 4, 3, 2)), nn.ReLU(), nn.Flatten(), filled(nn.Linear(80, 5))).eval()
    model, x = Classifier(net), (inputs(3).detach() + 1) / 2
    seen = []
    plain = torch.conv2d
    monkeypatch.setattr(ThinConvolutions, "__torch_function__", spy := _spied(seen))
    found = reduced_jacobian(model, lambda logits, rows: logits, x, lambda g: dual_length("l2", g))
    assert plain in seen
    assert spy is ThinConvolutions.__torch_function__
    due = model.jacobian(lambda logits, rows: logits, x)[1].flatten(2).norm(dim=2)
    torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def _spied(seen):
    own = ThinConvolutions.__torch_function__

    def spy(self, func, types, args=(), kwargs=None):
        seen.append(func)
        return own(self, func, types, args, kwargs)

    return spy
