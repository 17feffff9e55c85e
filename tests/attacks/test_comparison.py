"""Oblivious against adaptive, and the list of what every sound evaluation shows."""

import pytest
import torch
from torch import nn

import robustscope
from digits_bed import digits, fitted
from robustscope.attacks.checklist import LINES, checklist
from robustscope.attacks.comparison import Defence, compare, table
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws, permutation
from robustscope.core.errors import InvalidValue
from robustscope.data import problems
from robustscope.defenses.apply import transformation
from robustscope.defenses.hgd import _Adam
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier
from robustscope.models.defended import defend

PGD = (("pgd", {"steps": 20, "loss": "margin"}),)


@pytest.fixture(scope="module")
def bed():
    data = robustscope.load_data("digits")
    model = robustscope.load_model("bundled:digits_standard").classifier
    return model, data.read(range(60)), torch.as_tensor(data.labels[:60])


def test_each_view_is_shown_where_it_says_something(bed):
    model, x, y = bed
    defences = {
        "none": Defence(model),
        "bits": Defence(model, transformation("bit_depth", depth=4)),
        "crop": Defence(model, transformation("crop_rescale", share=0.875), verdict_draws=8),
        "tv": Defence(model, transformation("tv_minimisation", drop_rate=0.2, iterations=10), verdict_draws=8),
    }
    lines = compare(defences, x, y, "linf:0.1", attacks=PGD, gradient_draws=4)
    views = {title: [line.view for line in lines if line.defence == title] for title in defences}
    assert views == {
        "none": ["gradient"],
        "bits": ["oblivious", "bpda"],
        "crop": ["oblivious", "gradient", "eot"],
        "tv": ["oblivious", "bpda", "bpda+eot"],
    }
    for title in ("bits", "crop", "tv"):
        own = {line.view: line for line in lines if line.defence == title}
        adaptive = min(line.robust_accuracy for view, line in own.items() if view != "oblivious")
        assert adaptive < own["oblivious"].robust_accuracy - 0.05
        assert all(torch.equal(line.clean, own["oblivious"].clean) for line in own.values())
        assert all(not (line.robust & ~line.clean).any() for line in own.values())
        deployed = defences[title].seen()
        assert torch.equal(own["oblivious"].clean, deployed.logits(x).argmax(1) == y)
    printed = table(lines)
    assert printed.splitlines()[0] == "| defence | clean | oblivious | gradient | bpda | eot | bpda+eot | worst case |"
    assert len(printed.splitlines()) == 2 + len(defences)
    (bits,) = [line for line in printed.splitlines() if line.startswith("| bits")]
    cells = [cell.strip() for cell in bits.strip("|").split("|")]
    assert cells[3] == cells[5] == cells[6] == "–"
    assert float(cells[7]) <= min(float(cells[2]), float(cells[4]))


def test_the_worst_case_is_taken_for_each_sample(bed):
    model, x, y = bed
    attacks = (("fgsm", {}), ("pgd", {"steps": 3, "relative_step_size": 0.4}))
    lines = compare({"none": Defence(model)}, x, y, "linf:0.08", attacks=attacks)
    both = torch.stack([line.robust for line in lines]).all(0)
    printed = table(lines)
    assert "gradient, fgsm | gradient, pgd" in printed
    assert printed.strip().endswith(f"{100 * both.double().mean():.1f} |")
    assert lines[0].forward == int(lines[0].clean.sum())
    with pytest.raises(InvalidValue, match="no lines"):
        table([])
    with pytest.raises(InvalidValue, match="gradient_draws"):
        compare({"none": Defence(model)}, x, y, "linf:0.1", gradient_draws=1)


def test_the_comparison_is_repeatable_and_cut_as_one_likes(bed):
    model, x, y = bed
    made = Defence(model, transformation("tv_minimisation", iterations=5, drop_rate=0.2), verdict_draws=4)
    first, second = (compare({"tv": made}, x[:20], y[:20], "linf:0.1", attacks=PGD, gradient_draws=2) for _ in "ab")
    assert all(torch.equal(a.robust, b.robust) for a, b in zip(first, second, strict=True))


# Activations that compete: a network that hides its gradients.


class WinnersTakeAll(nn.Module):
    """Keeps the largest values of each row, zero for the others; Xiao et al. 2020, arXiv:1905.10510."""

    def __init__(self, winners):
        super().__init__()
        self.winners = winners

    def forward(self, x):
        return x * (x >= x.topk(self.winners, 1).values[:, -1:])


@pytest.fixture(scope="module")
def competing():
    _, _, x, y = fitted()
    x = x.float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(64, 100), WinnersTakeAll(10), nn.Linear(100, 100), WinnersTakeAll(10), nn.Linear(100, 10)
        )
    parameters = list(module.parameters())
    adam = _Adam(parameters, 3e-3)
    for epoch in range(15):
        for rows in torch.tensor(permutation(0, f"{epoch}", 700)).split(70):
            adam.step(torch.autograd.grad(nn.functional.cross_entropy(module(x[rows]), y[rows]), parameters))
    model = Classifier(module.eval(), batch_size=10_000)
    x, y = x[700:], y[700:]
    right = model.logits(x).argmax(1) == y
    assert right.double().mean() > 0.8
    return model, x[right][:30], y[right][:30]


def by_differences(model, x, y, epsilon, steps=20, directions=100, width=0.1):
    """Signs of slopes along random directions: no gradient is asked for."""
    point, left = x, torch.ones(len(x), dtype=torch.bool)
    repeated = y.repeat_interleave(directions)

    def loss(z):
        return -margin(model.logits(z.reshape(-1, x.shape[1])), repeated).view(len(x), directions, 1)

    for step in range(steps):
        u = Draws(0, tuple(range(len(x)))).normal(f"{step}", x[:, None].expand(-1, directions, -1))
        slope = ((loss(point[:, None] + width * u) - loss(point[:, None] - width * u)) * u).mean(1)
        moved = torch.clamp(point + 0.1 * epsilon * slope.sign(), x - epsilon, x + epsilon).clamp(0, 1)
        point = torch.where(left[:, None], moved, point)
        left &= model.logits(point).argmax(1) == y
    return left


def test_competing_activations_fool_gradients_and_not_differences(competing):
    model, x, y = competing
    pgd = (~attack("pgd", model, x, y, "linf:0.15", loss="margin").verdict.success).double().mean()
    left = by_differences(model, x, y, 0.15).double().mean()
    assert left <= pgd - 0.2


# The list.


def levels(findings):
    return {finding.name: finding.level for finding in findings}


def test_a_plain_network_passes_every_line(bed):
    model, x, y = bed
    for threat in ("linf:0.1", "l2:0.8"):
        findings = checklist(model, x, y, threat, tolerance=0.02)
        assert set(levels(findings).values()) == {"ok"}, [f for f in findings if f.level != "ok"]
        assert len(findings) == len(LINES) == 6
        assert all(finding.remedy == "" and any(c.isdigit() for c in finding.message) for finding in findings)
        assert all(finding.data["n"] == int((model.logits(x).argmax(1) == y).sum()) for finding in findings)


def test_hidden_gradients_are_found(bed):
    model, x, y = bed
    rounding = transformation("bit_depth", depth=4)
    found = levels(checklist(defend(model, rounding, approximate=False), x, y, "linf:0.1"))
    assert found["gradients beat queries"] == found["unbounded breaks all"] == "error"
    assert set(levels(checklist(defend(model, rounding), x, y, "linf:0.1", tolerance=0.02)).values()) == {"ok"}


def test_an_attack_that_stops_early_is_found(bed):
    model, x, y = bed
    weak = ("pgd", {"steps": 2, "relative_step_size": 0.02, "random_start": False})
    found = checklist(model, x, y, "linf:0.15", white=weak)
    assert levels(found)["doubling changes nothing"] == "error" or levels(found)["steps beat one step"] == "error"
    assert all(finding.remedy for finding in found if finding.level == "error")
    slow = ("pgd", {"steps": 6, "relative_step_size": 0.1, "random_start": False, "loss": "margin"})
    assert levels(checklist(model, x, y, "linf:0.15", white=slow))["doubling changes nothing"] == "error"


def test_an_attack_that_descends_loses_to_noise():
    model, x, y, _ = digits("linf", 60)
    backwards = ("pgd", {"loss": lambda z, y, t: margin(z, y), "steps": 5})
    found = levels(checklist(model, x, y, "linf:0.5", white=backwards))
    assert found["noise is weaker"] == found["steps beat one step"] == found["unbounded breaks all"] == "error"


def test_larger_radii_that_break_less_are_found():
    class Well(nn.Module):
        """Adversarial in a thin shell alone; long steps jump over it."""

        def forward(self, x):
            z = 0.2 * (x - 0.5).abs().amax(1)
            inside = ((x - 0.5).abs().amax(1) - 0.1).abs() < 0.03
            z = torch.where(inside, z + 1, z)
            return torch.stack([torch.full_like(z, 0.5), z], 1)

    x, y = torch.full((4, 5), 0.5), torch.zeros(4, dtype=torch.int64)
    start = ("pgd", {"steps": 4, "relative_step_size": 1.0, "random_start": True})
    found = levels(checklist(Classifier(Well().eval()), x, y, "linf:0.1", white=start))
    assert found["larger is stronger"] == "error"


def test_lists_of_nothing_are_refused():
    p = problems.linear_binary("linf", n=4)
    with pytest.raises(InvalidValue, match="classified correctly"):
        checklist(Classifier(p.module), p.x, 1 - p.y, "linf:0.1")
    with pytest.raises(InvalidValue, match="steps"):
        checklist(Classifier(p.module), p.x, p.y, "linf:0.1", white=("fgsm", {}))
    with pytest.raises(InvalidValue, match="tolerance"):
        checklist(Classifier(p.module), p.x, p.y, "linf:0.1", tolerance=1.0)
