"""The denoiser: what guides it decides what it is good for, and none of it survives an attack that knows it."""

import pytest
import torch
from torch import nn

import robustscope
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.data import problems
from robustscope.defenses.hgd import Dunet, amplification, build_dunet, denoising, fit_denoiser
from robustscope.models.classifier import Classifier
from robustscope.models.defended import defend
from robustscope.models.fingerprints import fingerprint, tensor_hash
from robustscope.models.randomness import random_state, same_random_state

EPSILON = 0.2


@pytest.fixture(scope="module")
def bed():
    target = robustscope.load_model("bundled:digits_standard").classifier
    train, test = robustscope.load_data("digits#train"), robustscope.load_data("digits")
    x, y = train.read(range(600)), torch.as_tensor(train.labels[:600])
    x_test, y_test = test.read(range(200)), torch.as_tensor(test.labels[:200])
    kept = target.logits(x_test).argmax(1) == y_test
    return target, x, y, x_test[kept], y_test[kept]


def moved(target, x, y, epsilon):
    return attack("pgd", target, x, y, f"linf:{epsilon}", steps=10, relative_step_size=0.25).result.x_adv


@pytest.fixture(scope="module")
def fitted(bed):
    """Denoisers guided by pixels and by logits, from the same pairs and the same start."""
    target, x, y, _, _ = bed
    x_adv = torch.cat([moved(target, x, y, e) for e in (EPSILON / 2, EPSILON)])
    facts = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 100}
    start = build_dunet(1, (8, 16), (1, 1))
    return {
        g: fit_denoiser(target, x.repeat(2, 1, 1, 1), x_adv, g, network=start, **facts) for g in ("pixels", "logits")
    }


def test_pixels_look_better_and_logits_classify_better(bed, fitted):
    target, _, _, x, y = bed
    x_adv = moved(target, x, y, EPSILON)
    assert (target.logits(x_adv).argmax(1) == y).double().mean() < 0.1
    error, right = {}, {}
    for guide, network in fitted.items():
        guarded = defend(target, denoising(network))
        with torch.no_grad():
            error[guide] = float((network(x_adv) - x).square().mean())
        right[guide] = float((guarded.logits(x_adv).argmax(1) == y).double().mean())
        assert (guarded.logits(x).argmax(1) == y).double().mean() > 0.97
    assert error["pixels"] < 0.7 * error["logits"]
    assert right["pixels"] <= right["logits"]
    assert right["logits"] > 0.9


def test_an_attack_through_the_denoiser_leaves_next_to_nothing(bed, fitted):
    target, _, _, x, y = bed
    bare = attack("pgd", target, x, y, f"linf:{EPSILON}", loss="margin", steps=20).verdict.success.double().mean()
    guarded = defend(target, denoising(fitted["logits"]))
    through = attack("pgd", guarded, x, y, f"linf:{EPSILON}", loss="margin", steps=20).verdict.success.double().mean()
    assert bare - through < 0.05


def test_training_is_repeatable_and_leaves_everything_alone(bed):
    target, x, y, _, _ = bed
    x, x_adv = x[:64], moved(target, x[:64], y[:64], EPSILON)
    before, marks = random_state(), tensor_hash(target.module)
    start = build_dunet(1, (4, 4), (1, 1))
    start_mark = tensor_hash(start)
    for guide, facts in (("logits", {}), ("features", {"layer": "3"}), ("classes", {"y": y[:64]}), ("pixels", {})):
        first, second = (
            fit_denoiser(target, x, x_adv, guide, network=start, epochs=2, batch_size=21, **facts) for _ in range(2)
        )
        assert tensor_hash(first) == tensor_hash(second) != start_mark
        assert not any(part.training for part in first.modules())
        assert all(p.grad is None for p in first.parameters())
    assert same_random_state(before, random_state())
    assert tensor_hash(target.module) == marks
    assert tensor_hash(start) == start_mark
    assert all(p.grad is None for p in target.module.parameters())
    assert not any(part._forward_hooks for part in target.module.modules())
    other = fit_denoiser(target, x, x_adv, "pixels", network=start, epochs=2, batch_size=21, seed=1)
    assert tensor_hash(other) != tensor_hash(first)
    assert fingerprint(defend(target, denoising(first)).module) != fingerprint(defend(target, denoising(other)).module)


def test_each_guide_lowers_what_it_is_told_to_lower(bed):
    target, x, y, _, _ = bed
    x, y = x[:200], y[:200]
    x_adv = moved(target, x, y, EPSILON)

    def losses(network):
        with torch.no_grad():
            z = network(x_adv)
            inner = target.module[:4]
            return {
                "pixels": float((z - x).abs().mean()),
                "features": float((inner(z) - inner(x)).abs().mean()),
                "logits": float((target.module(z) - target.module(x)).abs().mean()),
                "classes": float(nn.functional.cross_entropy(target.module(z), y)),
            }

    start = build_dunet(1, (8, 8), (1, 1))
    before = losses(start.eval())
    facts = {"features": {"layer": "3"}, "classes": {"y": y}}
    for guide in ("pixels", "features", "logits", "classes"):
        network = fit_denoiser(
            target, x, x_adv, guide, network=start, epochs=15, learning_rate=3e-3, batch_size=50, **facts.get(guide, {})
        )
        assert losses(network)[guide] < 0.8 * before[guide]


def test_an_untrained_denoiser_changes_nothing_at_any_size():
    for size in ((1, 1), (7, 5), (8, 8), (32, 30)):
        x = torch.rand(2, 3, *size)
        network = build_dunet(3, (4, 6, 8)).eval()
        assert torch.equal(network(x), x)
    assert torch.equal(build_dunet(1, (4,)).eval()(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_the_published_shape():
    with torch.random.fork_rng():
        network = Dunet(3).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 20)).shape == (1, 3, 32, 20)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == (2 + 3 * 4) + (3 * 3 + 2) + 1
    assert [m.out_channels for m in convolutions if m.stride == (2, 2)] == [128, 256, 256, 256]
    assert [m.in_channels for m in convolutions if m.in_channels > 256] == [512, 512, 384]
    assert convolutions[-1].kernel_size == (1, 1)


def test_differences_grow_from_layer_to_layer():
    layer = nn.Linear(4, 4, bias=False).double()
    layer.weight.data = torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0])).double()
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Identity(), layer).eval())
    x = torch.full((2, 4), 0.5, dtype=torch.float64)
    x_adv = x.clone()
    x_adv[:, 0] += 0.2
    grown = amplification(model, x, x_adv, ["1", "2"])
    assert grown == pytest.approx({"1": 0.2 / 2, "2": 0.6 / 3})


def test_what_does_not_fit_is_refused():
    p = problems.smooth_cnn(n=4)
    target = Classifier(p.module)
    for facts in (
        {"guide": "votes"},
        {"guide": "features"},
        {"guide": "classes"},
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
    ):
        with pytest.raises(InvalidValue):
            fit_denoiser(target, p.x, p.x, **facts)
    with pytest.raises(InvalidValue, match="pairs"):
        fit_denoiser(target, p.x, p.x[:2])
    with pytest.raises(InvalidValue, match="bounds"):
        fit_denoiser(target, p.x, p.x + 1)
    with pytest.raises(InvalidValue, match="widths"):
        Dunet(1, (4, 4), (1,))
