"""Probes of causes against closed forms; each check is shown to catch a broken version of its probe."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal
from torch import nn

from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier
from robustscope.probes.why import WHY
from robustscope.probes.why.compose import investigate
from robustscope.probes.why.sparsity import gini, hoyer

WIDE = Bounds(-100.0, 100.0)


def linear(weight, bias=None):
    """Return a classifier with these rows of weights (K, d) and biases, without a box that binds."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], len(weight), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias if bias is not None else [0.0] * len(weight), dtype=torch.float64))
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval(), WIDE)


def binary(w, bias=0.0):
    """Return the classifier with logits (f / 2, -f / 2), f(x) = <w, x> + bias."""
    w = torch.as_tensor(w, dtype=torch.float64)
    return linear(torch.stack([w, -w]) / 2, [bias / 2, -bias / 2])


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Quadratic(nn.Module):
    """Logits (x A x / 2, -100): the gradient of the first is A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x):
        first = ((x @ self.matrix) * x).sum(1) / 2
        return torch.stack([first, first * 0 - 100], 1)


def look(probe, model, x, y=None, threat="linf:0.1", **parameters):
    y = model.logits(x).argmax(1) if y is None else y
    parsed = threat if isinstance(threat, ThreatModel) else ThreatModel.parse(threat, model.bounds)
    return investigate(probe, model, x, y, parsed, **parameters)


def close(a, b, tolerance=1e-9):
    one, two = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    assert torch.allclose(one, two, rtol=tolerance, atol=tolerance), f"{one.flatten()[:9]} is not {two.flatten()[:9]}"


# Each check takes a card, so that the same lines judge the probe and its broken version.


def check_saliency(card):
    model, x = linear(numbers(3, 6), [0.1, -0.2, 0.3]), numbers(5, 6, seed=1)
    top = model.logits(x).argmax(1)
    rows = next(iter(model.module[1].parameters())).detach()[top]
    found = look(card, model, x, noises=3, steps=2, baseline=-1.0)
    for name in ("gradient", "smoothgrad"):
        close(found.pictures[name], rows)
    close(found.pictures["integrated"], rows * (x + 1))
    close(found.columns["shortfall"], torch.zeros(5))
    close(found.columns["gradient_gini"], gini(rows))
    matrix = numbers(4, 4, seed=2)
    curved = Classifier(Quadratic(matrix @ matrix.T).eval(), WIDE)
    x = numbers(2, 4, seed=3)
    found = look(card, curved, x, noises=2000, spread=0.5, steps=3, baseline=0.0)
    gradient = x @ (matrix @ matrix.T)
    close(found.pictures["gradient"], gradient)
    error = 0.5 * (x.amax(1) - x.amin(1)).max() * (matrix @ matrix.T).norm(dim=1).max() / math.sqrt(2000)
    assert float((found.pictures["smoothgrad"] - gradient).abs().max()) < 5 * float(error)
    close(found.pictures["integrated"], x * gradient / 2)  # midpoints are exact for a gradient that is linear
    same = look(card, curved, x, noises=1, spread=0.0)
    close(same.pictures["smoothgrad"], same.pictures["gradient"])


def check_smoothed_unit(card):
    """The gradient of a ReLU, smoothed, is Phi(t / s): 0.7475 at t / s = 2/3; the published figure."""
    unit = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.ReLU()).eval()
    with torch.no_grad():
        unit[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        unit[0].bias.copy_(torch.tensor([0.0, -100.0]))
    # The range of (2, -1) is 3, so that a spread of 1 is a deviation of 3: Phi(2 / 3) = 0.7475.
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    found = look(card, Classifier(unit, WIDE), x, noises=4000, spread=1.0, steps=1)
    assert abs(float(found.pictures["smoothgrad"][0, 0]) - normal.cdf(2 / 3)) < 0.02


def check_alignment(card):
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False)).double().eval()
    with torch.no_grad():
        for i, weight in enumerate(net.parameters()):
            weight.copy_(numbers(*weight.shape, seed=i))
    model, x = Classifier(net, WIDE), numbers(7, 5, seed=9)
    found = look(card, model, x).columns
    top, gradient, _ = model.gradient(lambda z, rows: z.amax(1), x)
    close(found["alignment"], top.abs() / gradient.norm(dim=1))  # without biases <x, g> is the logit itself
    close(found["pair_offset"], torch.zeros(7))
    close(found["linearised_robustness"], found["pair_alignment"])
    with torch.no_grad():
        net[2] = nn.Linear(8, 4).double().eval()
        net[2].weight.copy_(numbers(4, 8, seed=4))
        net[2].bias.copy_(numbers(4, seed=5))
    found = look(card, model, x).columns
    assert bool((found["linearised_robustness"] <= found["pair_alignment"] + found["pair_offset"] + 1e-12).all())
    problem = problems.linear_multiclass()
    found = look(card, Classifier(problem.module), problem.x).columns
    close(found["linearised_robustness"], problem.radius["l2"])


def check_local_lipschitz(card):
    weight = numbers(3, 6)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    exact = float((corners @ weight.T).abs().sum(1).max())
    found = look(card, linear(weight), numbers(4, 6, seed=1), threat="linf:0.3", restarts=6)
    close(found.columns["local_lipschitz"], torch.full((4,), exact), 1e-7)


def check_gradient_norm(card):
    w, x = torch.tensor([2.0, -1.0, 0.5, 0.25]).double(), numbers(6, 4, seed=1)
    y = torch.tensor([0, 1] * 3)
    sign = 1 - 2 * y.double()
    margin = sign * (x @ w.double())
    slope = 1 / (1 + margin.exp())  # of log(1 + exp(-margin))
    for norm, dual in (("linf", 3.75), ("l2", float(w.norm())), ("l1", 2.0)):
        found = look(card, binary(w), x, y, f"{norm}:0.1").columns
        close(found["damage"], 0.1 * dual * slope)
        close(found["step_damage"], (1 + (0.1 * dual - margin).exp()).log() - (1 + (-margin).exp()).log())
    for name, length in (("l1", 3.75), ("l2", float(w.norm())), ("linf", 2.0)):
        close(found[name], length * slope)
    # An image twice as large, of the same pixels twice, with a quarter of the weights: l1 stays, l2 is halved.
    large = look(card, binary(w.repeat_interleave(4) / 4), x.repeat_interleave(4, 1), y).columns
    close(large["l1"], 3.75 * slope)
    close(large["l2"], float(w.norm()) / 2 * slope)


def check_kl_robustness(card):
    """Two classes with logit a at the sample, which an epsilon moves by up to L: the published figures."""
    for a, reach, kl in ((0.0, 1.0, 0.120115), (2.0, 1.0, 0.067131), (2.0, 3.0, 0.828725)):
        w = torch.tensor([1.0, -1.0])
        found = look(card, binary(w, a), torch.zeros(1, 2, dtype=torch.float64), threat=f"linf:{reach / 2}", restarts=8)
        close(found.columns["kl"], [kl], 1e-5)
        close(found.columns["psi"], [1 / kl], 1e-5)


def check_landscape(card):
    w = torch.tensor([3.0, 4.0, 0.0, 12.0])
    x = numbers(5, 4, seed=2)
    found = look(card, binary(w), x, threat="l2:0.1", points=5, extent=2.0)
    lead = (x @ w.double()).abs()
    (ticks, _) = found.axes["margin"]
    assert ticks.tolist() == [-2, -1, 0, 1, 2]
    # The gradient ascends the loss, so the margin falls by |w| = 13 for each unit; along the other axis nothing moves.
    surface = lead[:, None, None] - 13 * 0.1 * torch.as_tensor(ticks)[None, :, None]
    close((found.pictures["margin"] - surface.abs() * surface.sign()), torch.zeros(5, 5, 5), 1e-6)
    close(found.columns["bend"], torch.zeros(5), 1e-6)
    close(found.columns["rise"], (1 + (0.26 * 10 / 1 - lead).exp()).log() - (1 + (-lead).exp()).log(), 1e-6)
    for plane in ("adversarial-random", "gradient-adversarial"):
        also = look(card, binary(w), x, threat="l2:0.1", points=5, plane=plane, steps=80).pictures["margin"]
        close(also, found.pictures["margin"], 1e-5)


def check_noise_error(card):
    problem = problems.linear_binary("l2")
    model = Classifier(problem.module, WIDE)
    found = look(card, model, problem.x, problem.y, sigma=0.15, copies=4000).columns
    true = torch.as_tensor(normal.cdf(-problem.radius["l2"] / 0.15))
    inside = (found["error_low"].numpy() <= true.numpy()) & (true.numpy() <= found["error_high"].numpy())
    assert inside.mean() >= 0.8
    assert np.allclose(found["predicted_distance"], problem.radius["l2"], rtol=0.06)
    assert bool((found["predicted_least"] <= found["predicted_distance"]).all())
    close(found["measured_distance"], problem.radius["l2"], 3e-3)


def check_margins(card):
    for norm in ("linf", "l2", "l1"):
        problem = problems.linear_binary(norm)
        model = Classifier(problem.module)
        found = look(card, model, problem.x, threat=f"{norm}:0.1").columns
        close(found["input_margin"], problem.radius[norm])
        close(found["scaled_margin"], torch.full((8,), 2.0))
        close(found["probability_margin"], (found["logit_margin"] / 2).tanh())
        wrong = look(card, model, problem.x, 1 - problem.y, f"{norm}:0.1").columns
        for name in ("logit_margin", "probability_margin", "scaled_margin", "input_margin"):
            close(wrong[name], -found[name])


def check_confidence(card):
    w, x = torch.tensor([2.0, -1.0, 0.5]), numbers(6, 3, seed=3)
    y = torch.tensor([0, 1] * 3)
    margin = (1 - 2 * y.double()) * (x @ w.double())
    found = look(card, binary(w), x, y, "linf:0.2").columns
    for prefix, lead in (("", margin), ("attacked_", margin - 0.2 * 3.5)):
        truth = lead.sigmoid()
        sure = torch.maximum(truth, 1 - truth)
        close(found[f"{prefix}confidence"], sure)
        close(found[f"{prefix}correct"], (lead > 0).double())
        close(found[f"{prefix}overconfidence"], sure - (lead > 0).double())
        close(found[f"{prefix}brier"], 2 * (1 - truth).square())
    given = look(card, binary(w), x, y, "linf:0.2", x_adv=x).columns
    assert all(torch.equal(given[name], given[f"attacked_{name}"]) for name in ("confidence", "correct", "brier"))


def pruned():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.cat([torch.ones(10), torch.zeros(10)]).reshape(5, 4))
        net[2].weight.copy_(torch.tensor([1.0] * 9 + [0.001]).reshape(2, 5))
    return net


def check_weight_sparsity(card):
    net, x = pruned(), torch.zeros(1, 4, dtype=torch.float64)
    found = look(card, Classifier(net), x).figures
    assert found["weights"] == 30
    close([found["zeros"], found["small"]], [10 / 30, 11 / 30])
    uneven = float(gini(net[2].weight.detach().reshape(1, -1)))
    close(found["gini"], (20 * 0.5 + 10 * uneven) / 30)
    close(
        found["hoyer"],
        (
            20 * float(hoyer(net[0].weight.detach().reshape(1, -1)))
            + 10 * float(hoyer(net[2].weight.detach().reshape(1, -1)))
        )
        / 30,
    )
    with torch.no_grad():  # the same function of the inputs
        net[0].weight.mul_(8)
        net[0].bias.mul_(8)
        net[2].weight.div_(8)
    close(list(look(card, Classifier(net), x).figures.values()), list(found.values()))


class Called(nn.Module):
    """The network of ``pruned`` with its activation called as a function, and a second layer of them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net[2](torch.relu(self.net[0](x)).relu_())


def check_activation_sparsity(card):
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    x = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-3.0, -1.0, 1.0], [0.0, -1.0, -1.0]], dtype=torch.float64)
    model = Classifier(net, WIDE)
    for network in (model, Classifier(Called(net).eval(), WIDE), replace(model, batch_size=3)):
        found = look(card, network, x).columns
        close(found["zeros"], [0.25, 0.75, 0.5, 1.0])
        close(found["gini"][:3], [0.25, 0.75, 0.625])
        assert bool(found["gini"][3].isnan())


CHECKS = {
    "saliency": check_saliency,
    "alignment": check_alignment,
    "local_lipschitz": check_local_lipschitz,
    "gradient_norm": check_gradient_norm,
    "kl_robustness": check_kl_robustness,
    "landscape": check_landscape,
    "noise_error": check_noise_error,
    "margins": check_margins,
    "confidence": check_confidence,
    "weight_sparsity": check_weight_sparsity,
    "activation_sparsity": check_activation_sparsity,
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_probe_is_exact(name):
    CHECKS[name](WHY[name])


def test_a_smoothed_unit_has_the_published_slope():
    check_smoothed_unit(WHY["saliency"])


def with_change(name, **changes):
    """Return a card whose function changes columns, pictures or figures of the probe: kind -> function of all of them."""

    def function(model, x, y, threat, *, draws, **parameters):
        found = WHY[name].function(model, x, y, threat, draws=draws, **parameters)
        return replace(
            found, **{kind: {**getattr(found, kind), **change(found, x)} for kind, change in changes.items()}
        )

    return _as(name, function)


def _as(name, function):
    """Return the card of a probe with another function, whose parameters are taken as they are."""

    class Open(type(WHY[name])):
        def resolve(self, given=None):
            return dict(WHY[name].resolve(given))

    facts = {key: getattr(WHY[name], key) for key in ("version", "source", "columns", "figures", "access", "norms")}
    return Open(name=name, function=function, **facts)


def with_parameters(name, **wrong):
    return _as(name, lambda *given, **more: WHY[name].function(*given, **{**more, **wrong}))


def with_patch(name, module, attribute, value):
    def function(*given, **more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, attribute, value)
            return WHY[name].function(*given, **more)

    return _as(name, function)


def start_at_the_sample(threat, x, draws, purpose):
    return x.clone()


def all_weights_at_once(model, x, y, threat, *, draws):
    rows = torch.cat([w.detach().reshape(1, -1) for w in model.module.parameters() if w.dim() > 1], 1)
    found = WHY["weight_sparsity"].function(model, x, y, threat, draws=draws)
    return replace(found, figures={**found.figures, "gini": float(gini(rows))})


BROKEN = {
    "SmoothGrad sums instead of averaging": (
        "saliency",
        with_change("saliency", pictures=lambda f, x: {"smoothgrad": 3 * f.pictures["smoothgrad"]}),
    ),
    "integrated gradients without the way": (
        "saliency",
        with_change("saliency", pictures=lambda f, x: {"integrated": f.pictures["integrated"] / x}),
    ),
    "saliency of the lead instead of the logit": ("saliency", with_parameters("saliency", target="lead")),
    "a way that begins elsewhere": ("saliency", with_parameters("saliency", baseline=0.25)),
    "alignment of the lead instead of the logit": (
        "alignment",
        with_change("alignment", columns=lambda f, x: {"alignment": f.columns["pair_alignment"]}),
    ),
    "alignment around grey": ("alignment", with_parameters("alignment", centre=0.5)),
    "one rival only": ("alignment", with_parameters("alignment", rivals=1)),
    "steps that do not reach the end of the set": (
        "local_lipschitz",
        with_parameters("local_lipschitz", relative_step_size=0.01),
    ),
    "gradients of the mean over the batch": (
        "gradient_norm",
        with_change("gradient_norm", columns=lambda f, x: {"damage": f.columns["damage"] / len(x)}),
    ),
    "a norm that is not the dual": (
        "gradient_norm",
        with_patch("gradient_norm", balls, "dual_length", lambda norm, g: balls.length(norm, g)),
    ),
    "an ascent that starts where the divergence is flat": (
        "kl_robustness",
        with_patch("kl_robustness", balls, "sample", start_at_the_sample),
    ),
    "axes the wrong way round": (
        "landscape",
        with_change("landscape", pictures=lambda f, x: {"margin": f.pictures["margin"].transpose(1, 2)}),
    ),
    "half the extent": ("landscape", with_parameters("landscape", extent=1.0)),
    "noise of another size": ("noise_error", with_parameters("noise_error", sigma=0.2)),
    "distances two percent too long": (
        "noise_error",
        with_change("noise_error", columns=lambda f, x: {"measured_distance": 1.02 * f.columns["measured_distance"]}),
    ),
    "margins of probabilities as logits": (
        "margins",
        with_change("margins", columns=lambda f, x: {"input_margin": f.columns["logit_margin"]}),
    ),
    "errors with a margin above 0": (
        "margins",
        with_change("margins", columns=lambda f, x: {"scaled_margin": f.columns["scaled_margin"].abs()}),
    ),
    "an attack of too few steps": ("confidence", with_parameters("confidence", steps=1)),
    "sure of the true class": (
        "confidence",
        with_change("confidence", columns=lambda f, x: {"confidence": 1 - (f.columns["brier"] / 2).sqrt()}),
    ),
    "weights of all layers in one": ("weight_sparsity", _as("weight_sparsity", all_weights_at_once)),
    "zeros of modules alone": (
        "activation_sparsity",
        with_change("activation_sparsity", columns=lambda f, x: {"zeros": f.columns["zeros"] / 2}),
    ),
}


@pytest.mark.parametrize("label", BROKEN)
def test_a_broken_probe_is_caught(label):
    name, card = BROKEN[label]
    with pytest.raises(AssertionError):
        CHECKS[name](card)


def test_every_probe_has_an_exact_check_and_a_broken_version():
    assert {name for name, _ in BROKEN.values()} == set(CHECKS)


@pytest.mark.parametrize("values", [64, 256, 1024])
def test_loss_gradients_at_random_initialisation_grow_with_the_root_of_the_dimension(values):
    """||g||_1 / sqrt(d) is about 1.2 and ||g||_2 about 1.5 whatever d: the figures of the specification, +-15 %."""
    generator = torch.Generator().manual_seed(values)
    layers = []
    for inputs, outputs in ((values, 256), (256, 256), (256, 256), (256, 10)):
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.normal_(0, math.sqrt(2 / inputs), generator=generator)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    model = Classifier(nn.Sequential(*layers[:-1]).eval(), WIDE)
    x = torch.randn(128, values, generator=generator)
    y = torch.randint(10, (128,), generator=generator)
    found = look("gradient_norm", model, x, y).columns
    assert abs(float(found["l1"].mean()) / math.sqrt(values) / 1.19 - 1) < 0.15
    assert abs(float(found["l2"].mean()) / 1.48 - 1) < 0.15
