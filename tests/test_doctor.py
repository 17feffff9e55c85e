"""The doctor finds every fault that it looks for in a model broken for the purpose, and nothing in a plain one."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.data.datasets import load_data
from robustscope.models import zoo
from robustscope.models.layers import build
from robustscope.models.loading import from_module
from robustscope.probes.doctor import examine

torch.set_num_threads(1)


class Wrapped(nn.Module):
    """A network with something done before and after it."""

    def __init__(self, inner, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.eval()

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def trained(x, y, classes=10, seed=0):
    """A small network fitted for a second."""
    torch.manual_seed(seed)
    model = build(zoo.small_cnn(tuple(x.shape[1:]), classes, width=8))
    weights = list(model.parameters())
    speeds = [torch.zeros_like(w) for w in weights]
    for step in range(200):
        rows = torch.arange(128 * step, 128 * (step + 1)) % len(x)
        gradients = torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), weights)
        with torch.no_grad():
            for weight, speed, gradient in zip(weights, speeds, gradients, strict=True):
                weight -= speed.mul_(0.9).add_(0.05 * gradient)
    return model.eval()


@pytest.fixture(scope="module")
def data(digits):
    return digits.read(range(len(digits))), torch.from_numpy(digits.labels)


@pytest.fixture(scope="module")
def model(data):
    return trained(*data)


def found(model, data, name=None, **options):
    findings = {finding.name: finding for finding in examine(model, data, **options)}
    return findings[name] if name else findings


def levels(findings):
    return {name: finding.level for name, finding in findings.items()}


def bad(findings):
    return {name for name, finding in findings.items() if finding.level != "ok"}


def test_a_plain_model_is_left_in_peace(model, digits, data):
    for candidate, source in ((model, digits), (from_module(model), digits), (from_module(model).classifier, data)):
        findings = found(candidate, source)
        assert bad(findings) == set()
        assert len(findings) == 13
        assert all(finding.message and not finding.remedy for finding in findings.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_model_is_left_in_peace_on_any_samples(model, digits, seed):
    assert bad(found(model, digits, seed=seed, samples=120)) == set()


def test_training_mode_is_found_and_left(model, digits):
    broken = nn.Sequential(copy.deepcopy(model), nn.Dropout(0.5))
    broken[0].eval()
    broken.training = False
    finding = found(broken, digits, "mode")
    assert (finding.level, finding.data["parts"]) == ("error", ["1"])
    assert "Dropout" in finding.message
    assert finding.remedy == "model.eval()"
    assert broken[1].training
    norm = nn.Sequential(copy.deepcopy(model), nn.BatchNorm1d(10)).train()
    assert levels(found(norm, digits))["state"] == "ok"
    assert norm[1].num_batches_tracked == 0


def test_nan_weights_are_named(model, digits):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[5].bias[3] = float("nan")
    findings = found(broken, digits)
    assert findings["weights"].data["tensors"] == ["5.bias"]
    assert findings["outputs"].level == "error"
    assert findings["gradients"].level == "skipped"


def test_ranges(model, data):
    x, y = data
    finding = found(model, (x * 255, y), "range")
    assert (finding.level, "x / 255" in finding.remedy) == ("error", True)
    finding = found(model, ((x * 255).to(torch.uint8), y), "range")
    assert (finding.level, "x / 255" in finding.remedy) == ("error", True)
    finding = found(model, ((x - 0.3) / 0.35, y), "range")
    assert (finding.level, "x * std + mean" in finding.remedy) == ("error", True)
    finding = found(model, (x / 255, y), "range")
    assert (finding.level, "twice" in finding.message) == ("warning", True)
    assert found(model, (x, y), "range", bounds=(0, 255)).level == "warning"
    assert found(model, (torch.full_like(x, torch.nan), y), "range").level == "error"


def test_missing_normalisation_is_found(data):
    def fold(v):
        return torch.sin(3 * v)

    x, y = data
    needs = Wrapped(trained(fold((x - 0.5) / 0.5), y), before=fold)
    assert bad(found(needs, data, mean=(0.5,), std=(0.5,))) == set()
    finding = found(needs, data, "normalisation")
    assert (finding.level, finding.data["best"]) == ("error", "0.5 and 0.5")
    assert "missing" in finding.message
    assert "mean=(0.5,), std=(0.5,)" in finding.remedy
    assert finding.data["gain"] > 0.2
    assert found(needs, data, "normalisation", mean=(0.1307,), std=(0.3081,)).data["best"] == "0.5 and 0.5"


def test_double_normalisation_is_found(data):
    def normalise(x):
        return torch.sin(1.5 * (x - 0.5) / 0.5)

    inside = Wrapped(trained(normalise(data[0]), data[1]), before=normalise)
    assert bad(found(inside, data)) == set()
    finding = found(inside, data, "normalisation", mean=(0.5,), std=(0.25,))
    assert (finding.level, finding.data["best"]) == ("error", "none")
    assert "twice" in finding.message


def test_a_model_for_0_to_255_is_found(data):
    x, y = data
    wants = Wrapped(trained(x, y), before=lambda x: (x / 255).clamp(0, 1))
    finding = found(wants, data, "normalisation")
    assert (finding.level, finding.data["best"]) == ("error", "values from 0 to 255")


@pytest.mark.parametrize("kind", ["softmax", "log-softmax"])
def test_probabilities_are_found(model, digits, kind):
    after = (lambda z: z.softmax(1)) if kind == "softmax" else (lambda z: z.log_softmax(1))
    finding = found(Wrapped(model, after=after), digits, "probabilities")
    assert (finding.level, finding.data["kind"]) == ("error" if kind == "softmax" else "warning", kind)


@pytest.mark.parametrize("shift", [1, -1])
def test_labels_off_by_one_are_found(model, data, shift):
    x, y = data
    keep = (y + shift >= 0) & (y + shift < 10)
    finding = found(model, (x[keep], (y + shift)[keep]), "labels")
    assert (finding.level, finding.data["shift"]) == ("error", -shift)
    assert finding.remedy == f"y = y {'-' if shift > 0 else '+'} 1"


def test_permuted_labels_are_found_with_the_order(model, data):
    x, y = data
    order = torch.tensor([7, 3, 0, 9, 1, 8, 2, 6, 5, 4])
    finding = found(model, (x, order.argsort()[y]), "labels")
    assert (finding.level, finding.data["order"]) == ("error", order.tolist())
    assert torch.equal(torch.tensor(finding.data["order"])[order.argsort()[y]], y)


def test_an_untrained_model_is_near_chance_and_no_permutation_is_invented(digits):
    for seed in range(5):
        torch.manual_seed(seed)
        finding = found(build(zoo.small_cnn((1, 8, 8), 10)).eval(), digits, "labels")
        assert finding.level in ("warning", "ok")
        assert "order" not in finding.data
    noise = Wrapped(nn.Flatten(), after=lambda z: torch.sin(1e4 * z[:, :60] @ torch.ones(60, 100).cumsum(1)))
    assert found(noise.eval(), digits, "labels").level == "warning"


def test_labels_swapped_between_two_classes(data):
    x, y = data
    two = y < 2
    model = trained(x[two], y[two], classes=2)
    findings = found(model, (x[two], y[two]))
    assert bad(findings) == {"class count"}
    assert "DLR" in findings["class count"].message
    assert found(model, (x[two], 1 - y[two]), "labels").data["order"] == [1, 0]


def test_class_counts(model, digits, data):
    x, y = data
    assert found(Wrapped(model, after=lambda z: z[:, :8]), digits, "class count").level == "error"
    assert found(Wrapped(model, after=lambda z: z[:, :1]), (x, (y > 4).long()), "class count").level == "error"
    more = found(Wrapped(model, after=lambda z: F.pad(z, (0, 5), value=-9.0)), digits, "class count")
    assert more.level == "warning"
    three = Wrapped(model, after=lambda z: z[:, :3])
    assert "targeted DLR" in found(three, (x[y < 3], y[y < 3]), "class count").message
    assert found(model, (x, y - 1), "class count").level == "error"


def test_noise_inside_the_model_is_found_and_the_generators_are_kept(model, digits):
    before = torch.get_rng_state()
    findings = found(Wrapped(model, after=lambda z: z + torch.randn_like(z)), digits)
    assert findings["determinism"].level == "error"
    assert findings["determinism"].data["flips"] > 0
    assert findings["state"].level == "ok"
    assert torch.equal(before, torch.get_rng_state())


def test_samples_coupled_in_a_batch_are_found(model, digits):
    finding = found(Wrapped(model, after=lambda z: z - z.mean(0)), digits, "determinism")
    assert finding.level == "error"
    assert "alone" in finding.message
    squeezed = found(Wrapped(model, after=lambda z: z.squeeze(0)), digits, "determinism")
    assert squeezed.level == "error"


@pytest.mark.parametrize(
    ("before", "level"),
    [
        (lambda x: (x * 4).round() / 4, "error"),
        (lambda x: x.detach(), "error"),
        (lambda x: x.sqrt(), "error"),
    ],
)
def test_layers_without_gradient_are_found(model, digits, before, level):
    finding = found(Wrapped(model, before=before), digits, "gradients")
    assert finding.level == level
    assert finding.remedy


def test_no_grad_and_huge_logits_are_found(model, digits):
    @torch.no_grad()
    def stop(z):
        return z * 1.0

    assert "autograd" in found(Wrapped(model, after=stop), digits, "gradients").message
    finding = found(Wrapped(model, after=lambda z: 100 * z), digits, "gradients")
    assert (finding.level, "margin" in finding.remedy) == ("warning", True)
    assert finding.data["zero"]["cross-entropy"] > 0.5
    assert finding.data["zero"]["margin"] == 0


def test_quantised_and_half_layers_are_found(model, digits):
    half = copy.deepcopy(model).bfloat16()
    assert found(half, digits, "layers").level == "warning"
    broken = copy.deepcopy(model)
    broken.register_parameter("codes", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    assert found(broken, digits, "layers").data["parts"] == ["codes"]


def test_outputs_that_are_no_rows_of_logits(model, digits, data):
    cases = {
        "raised": Wrapped(model, before=lambda x: x[:, :, :4]),
        "shape": Wrapped(model, after=lambda z: z[:, :, None]),
        "NaN": Wrapped(model, after=lambda z: z.log()),
    }
    for says, broken in cases.items():
        findings = found(broken, digits)
        assert findings["outputs"].level == "error"
        assert says in findings["outputs"].message
        assert findings["labels"].level == "skipped"
        assert findings["state"].level == "ok"
    assert "3 channels" in found(model, data, "outputs", mean=(0.5,) * 3, std=(0.5,) * 3).message


class Sticky(nn.Module):
    """Counts its calls in a buffer, and cannot be copied, so that the doctor must work on it."""

    calls: torch.Tensor

    def __init__(self, inner, honest):
        super().__init__()
        self.inner, self.honest = inner, honest
        self.register_buffer("calls", torch.zeros(()))
        self.hidden = [0]

    def __deepcopy__(self, memo):
        raise RuntimeError("not to be copied")

    def forward(self, x):
        self.calls += 1
        if not self.honest:
            self.inner[0].weight.requires_grad_(False)
        return self.inner(x)


def test_the_state_is_put_back_and_changes_that_cannot_be_are_told(model, digits):
    sticky = Sticky(copy.deepcopy(model), honest=True)
    findings = found(sticky, digits)
    assert findings["state"].level == "ok"
    assert sticky.calls == 0
    assert sticky.training
    finding = found(Sticky(copy.deepcopy(model), honest=False).eval(), digits, "state")
    assert (finding.level, finding.data["changed"]) == ("error", ["requires_grad"])


def test_stored_gradients_and_modes_stay(model, digits):
    module = copy.deepcopy(model)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    module[1].train()
    assert found(module, digits, "state").level == "ok"
    assert module[1].training
    assert module[0].weight.grad.eq(1).all()
    assert module[0].bias.grad is None


def test_what_cannot_be_examined_is_refused(model, data):
    x, y = data
    wrong: list[Any] = [(lambda x: x, data), (model, [x, y]), (model, "digits")]
    for given, source in wrong:
        with pytest.raises(InvalidType):
            examine(given, source)
    refused: list[Any] = [
        ((x, y[:-1]), {}),
        ((x, y.float()), {}),
        ((x[:0], y[:0]), {}),
        (data, {"samples": 0}),
        (data, {"mean": (0.5,)}),
        (data, {"bounds": (1, 0)}),
    ]
    for source, options in refused:
        with pytest.raises(InvalidValue):
            examine(model, source, **options)
