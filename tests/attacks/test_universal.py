"""Universal perturbations: the closed form on a linear model, the file, the plan, the command."""

import json
import math

import pytest
import torch
from torch import nn

import robustscope
from doors import STANDARD, command
from robustscope.attacks.compose import attack
from robustscope.attacks.universal_craft import craft_universal, digest, load_universal, universal_bytes
from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, InvalidValue, MissingFile
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model


def plane(n=40, d=12):
    """Samples on the positive side of w · (x - 1/2) = 0, in the middle of the box, and the model."""
    w = Draws(0, (0,), "test").normal("w", torch.empty(1, d, dtype=torch.float64))[0]
    x = 0.5 + 0.1 * Draws(0, tuple(range(n)), "test").uniform("x", torch.empty(n, d, dtype=torch.float64))
    x = x - ((x - 0.5) @ w)[:, None] * w / w.square().sum() + 0.02 * w / w.norm()
    layer = nn.Linear(d, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([w, -w]))
        layer.bias.copy_(torch.stack([-w.sum() / 2, w.sum() / 2]))
    return Classifier(layer.eval()), x, torch.zeros(n, dtype=torch.int64), w


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_one_plane_has_one_best_direction(norm, dual):
    """All samples have one exact radius, and -epsilon times the steepest direction breaks all of them at once."""
    model, x, y, w = plane()
    radius = 0.02 * float(w.norm() / torch.linalg.vector_norm(w, dual))
    for factor, rate in ((1.05, 1.0), (0.97, 0.0)):
        found = craft_universal(model, x, y, ThreatModel(norm, factor * radius), passes=12, batch_size=8)
        assert found.fooling_rate == found.success_rate == rate
        assert (
            torch.linalg.vector_norm(found.delta, {"linf": math.inf, "l2": 2, "l1": 1}[norm]) <= factor * radius + 1e-9
        )
        assert found.facts["backward"] == 12 * 40
        assert found.facts["forward"] == 40 + 12 * 80 + 40


def test_the_seed_decides_and_the_classifier_s_cut_does_not():
    model, d = load_model(STANDARD).classifier, load_data("digits")
    x, y = d.read(range(90)), torch.as_tensor(d.labels[:90])
    threat = ThreatModel("l2", 1.0)
    one, two = (craft_universal(model, x, y, threat, seed=s, passes=2, batch_size=32).delta for s in (0, 0))
    assert torch.equal(one, two)
    assert not torch.equal(one, craft_universal(model, x, y, threat, seed=1, passes=2, batch_size=32).delta)
    cut = Classifier(model.module, batch_size=20)
    assert torch.allclose(one, craft_universal(cut, x, y, threat, seed=0, passes=2, batch_size=32).delta, atol=1e-5)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory):
    """A perturbation for the digits network, crafted by the command on samples 200 to 499."""
    path = tmp_path_factory.mktemp("universal") / "delta.safetensors"
    options = ("--data", "digits", "--threat", "l2:1.5", "--samples", "200:500", "--out", path, "--json")
    code, out, _ = command("universal", STANDARD, *options)
    assert code == 0
    return path, json.loads(out)


def test_the_command_writes_what_it_says(crafted):
    path, said = crafted
    found = load_universal(path)
    assert (found.norm, found.epsilon, found.delta.shape) == ("l2", 1.5, (1, 8, 8))
    assert found.fooling_rate == said["fooling_rate"] > 0.7
    assert found.facts["n"] == 300
    assert found.facts["model"]["fingerprint"] == load_model(STANDARD).fingerprint
    assert found.facts["data"]["fingerprint"] == load_data("digits").fingerprint(range(200, 500))
    code, out, err = command(
        "universal", STANDARD, "--data", "digits", "--threat", "linf:0.1", "--out", path.parent / "b"
    )
    assert (code, "crafted on 500 samples of digits" in out, "5000/5000" in err) == (0, True, True)
    assert command("universal", STANDARD, "--data", "digits", "--out", path.parent)[0] == 2
    assert command("universal", STANDARD, "--data", "digits", "--threat", "l0:3", "--out", path)[0] == 2


def test_it_fools_samples_that_it_has_not_seen(crafted):
    path, _ = crafted
    model, d = load_model(STANDARD).classifier, load_data("digits")
    x, y = d.read(range(200)), torch.as_tensor(d.labels[:200])
    found = attack("universal", model, x, y, "l2:1.5", perturbation=str(path))
    noise = attack("noise_uniform", model, x, y, "l2:1.5").verdict.success
    assert found.verdict.success.double().mean() > 0.7 > noise.double().mean() + 0.4
    assert int(found.result.forward.sum() + found.result.backward.sum()) == 0
    assert torch.allclose(found.result.x_adv, (x + load_universal(path).delta).clamp(0, 1), atol=1e-6)
    half = attack("universal", model, x, y, "l2:0.75", perturbation=str(path))
    assert half.verdict.distance.max() <= 0.75 + 1e-6
    fixed = attack("universal", model, x, y, "l2:3", perturbation=str(path), rescale=False)
    assert torch.allclose(fixed.result.x_adv, found.result.x_adv)


def test_the_plan_holds_the_hash_and_another_file_is_refused(crafted, tmp_path):
    path, _ = crafted
    own = tmp_path / "delta.safetensors"
    own.write_bytes(path.read_bytes())
    model = robustscope.load_model(STANDARD)
    settings = {"samples": "0:30", "curve": (), "threads": 1}
    result = robustscope.evaluate(model, "digits", "l2:1.5", attacks=f"universal:perturbation={own}", **settings)
    assert result.plan["cells"][0]["parameters"]["sha256"] == digest(own)
    assert result.summary()["robust_accuracy"]["value"] < 0.4
    given = {"perturbation": str(own), "sha256": digest(own)}
    found = load_universal(path)
    own.write_bytes(universal_bytes(type(found)(found.delta / 2, *list(vars(found).values())[1:])))
    x, y = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    with pytest.raises(InvalidValue, match="sha-256"):
        attack("universal", model.classifier, x, y, "l2:1.5", **given)
    for threat, inputs, said in (("linf:0.1", x, "l2"), ("l2:1", torch.zeros(2, 1, 4, 4), "shape")):
        narrow = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 10)).eval())
        with pytest.raises(InvalidValue, match=said):
            attack("universal", narrow, inputs, y, threat, perturbation=str(own))


def test_files_of_another_kind_are_refused(tmp_path):
    model, x, y, _ = plane(n=2)
    with pytest.raises(InvalidValue, match="no perturbation"):
        attack("universal", model, x, y, "linf:0.1")
    with pytest.raises(MissingFile):
        attack("universal", model, x, y, "linf:0.1", perturbation=str(tmp_path / "absent.safetensors"))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(BadFile, match="universal"):
        load_universal(bad)
    from safetensors.torch import save_file

    save_file({"delta": torch.zeros(2)}, bad)
    with pytest.raises(BadFile, match="kind"):
        load_universal(bad)
    for facts in ({"passes": 0}, {"batch_size": 0}, {"loss_limit": 0.0}):
        with pytest.raises(InvalidValue):
            craft_universal(model, x, y, ThreatModel("linf", 0.1), **facts)
    with pytest.raises(InvalidValue, match="l0"):
        craft_universal(model, x, y, ThreatModel("l0", 1))
    with pytest.raises(InvalidValue, match="0 samples"):
        craft_universal(model, x[:0], y[:0], ThreatModel("linf", 0.1))
