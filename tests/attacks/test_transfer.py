"""Transfer on the bundled networks: weaker than the white box, stronger than noise, and no row through the victim."""

import shutil

import pytest
import torch
from torch import nn

import robustscope
from robustscope.attacks.compose import attack
from robustscope.attacks.transfer import Ensemble
from robustscope.core.errors import InvalidValue, MissingFile
from robustscope.core.types import Bounds
from robustscope.data.datasets import load_data
from robustscope.models.cards import save_model
from robustscope.models.classifier import Classifier
from robustscope.models.loading import load_model
from robustscope.runs.store import read_table

STANDARD, ADVERSARIAL = "bundled:digits_standard", "bundled:digits_adversarial"


def digits(n=120):
    data = load_data("digits")
    return data.read(range(n)), torch.as_tensor(data.labels[:n])


def broken(outcome):
    return float(outcome.verdict.success.double().mean())


@pytest.mark.parametrize(("victim", "surrogate"), [(STANDARD, ADVERSARIAL), (ADVERSARIAL, STANDARD)])
def test_between_noise_and_the_white_box(victim, surrogate):
    model, (x, y) = load_model(victim).classifier, digits()
    model.ledger.reset()
    found = attack("transfer", model, x, y, "linf:0.2", surrogates=surrogate)
    assert (model.ledger.forward, model.ledger.backward) == (120 + 2 * int(found.verdict.success.sum()), 0), (
        "the judge's rows"
    )
    noise, white = (broken(attack(name, model, x, y, "linf:0.2")) for name in ("noise_uniform", "pgd"))
    assert noise + 0.2 < broken(found) < white - 0.2
    assert int(found.result.forward.sum() + found.result.backward.sum()) == 0
    assert found.result.elsewhere.shape == (120, 2)
    assert (found.result.elsewhere > 0).all()
    hasty = attack("transfer", model, x, y, "linf:0.2", surrogates=surrogate, confidence=0.0)
    assert broken(hasty) < broken(found), "stopping at the surrogate's own boundary transfers less"
    assert (hasty.result.elsewhere <= found.result.elsewhere).all()


def test_the_victim_as_its_own_surrogate_is_the_white_box():
    model, (x, y) = load_model(STANDARD).classifier, digits(60)
    facts = {"surrogates": STANDARD, "confidence": 0.0, "options": "steps=15;random_start=false"}
    there = attack("transfer", model, x, y, "linf:0.1", **facts)
    here = attack("pgd", model, x, y, "linf:0.1", steps=15, random_start=False)
    assert torch.allclose(there.result.x_adv, here.result.x_adv, atol=1e-6)
    spent = torch.stack([here.result.forward, here.result.backward], 1)
    assert torch.equal(there.result.elsewhere, spent)
    twice = attack("transfer", model, x, y, "linf:0.1", **{**facts, "surrogates": f"{STANDARD}+{STANDARD}"})
    assert torch.allclose(twice.result.x_adv, here.result.x_adv, atol=1e-6)
    assert torch.equal(twice.result.elsewhere, 2 * spent)


def test_targets_reach_the_target_on_the_surrogate():
    model, (x, y) = load_model(STANDARD).classifier, digits(40)
    targets = (y + 1) % 10
    found = attack("transfer", model, x, y, "linf:0.5", surrogates=STANDARD, targets=targets, confidence=2.0)
    logits = model.logits(found.result.x_adv)
    lead = logits.gather(1, targets[:, None])[:, 0] - logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    assert found.verdict.success.double().mean() > 0.9
    assert (lead[found.verdict.success] > 0).all()
    assert (lead > 2 - 1e-3).double().mean() > 0.8, "not just across the boundary"


def test_an_ensemble_averages_what_its_members_see():
    x = torch.linspace(0, 1, 12).view(1, 3, 2, 2)
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval() for _ in range(2)]
    scaled = Classifier(layers[0], mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    plain = Classifier(layers[1])
    mean = (scaled.logits(x) + plain.logits(x)) / 2
    with torch.no_grad():
        assert torch.allclose(Ensemble([scaled, plain])(x), mean, atol=1e-6)
        lifted = Ensemble([scaled, plain], favoured=2, by=3.0)(x) - mean
    assert torch.allclose(lifted, torch.tensor([[0.0, 0.0, 3.0, 0.0]]), atol=1e-5)


def surrogate_file(folder, seed=0, bounds=(0.0, 1.0), classes=10):
    generator = torch.Generator().manual_seed(seed)
    state = {"1.weight": torch.randn(classes, 64, generator=generator), "1.bias": torch.zeros(classes)}
    layers = [{"type": "flatten"}, {"type": "linear", "in": 64, "out": classes}]
    facts = {"shape": [1, 8, 8], "value_range": list(bounds)}
    return save_model(folder / "surrogate.json", layers, state, facts, overwrite=True)


def test_the_plan_holds_the_fingerprints_and_other_weights_are_refused(tmp_path):
    path = surrogate_file(tmp_path)
    model = robustscope.load_model(STANDARD)
    text = f"transfer:surrogates={path}+{ADVERSARIAL},options=steps=5"
    result = robustscope.evaluate(model, "digits", "linf:0.2", attacks=text, samples="0:20", curve=(), threads=1)
    pinned = result.plan["cells"][0]["parameters"]["fingerprints"]
    assert pinned == "+".join(load_model(source).fingerprint for source in (str(path), ADVERSARIAL))
    notes = read_table(result.run)["note"]
    assert notes.str.fullmatch(r"on other models: \d+ forward rows, \d+ backward").sum() >= 15
    assert result.summary()["cost_total"]["attacks"] == {"forward": 0, "backward": 0}
    result.report()
    x, y = digits(4)
    surrogate_file(tmp_path, seed=1)
    given = {"surrogates": f"{path}+{ADVERSARIAL}", "fingerprints": pinned}
    with pytest.raises(InvalidValue, match="not those of the plan"):
        attack("transfer", model.classifier, x, y, "linf:0.2", **given)
    shutil.rmtree(tmp_path)
    with pytest.raises(MissingFile):
        attack("transfer", model.classifier, x, y, "linf:0.2", **given)


def test_surrogates_that_do_not_fit_are_refused(tmp_path):
    model, (x, y) = load_model(STANDARD).classifier, digits(4)
    for facts, said in (
        ({"surrogates": ""}, "surrogates"),
        ({"surrogates": str(surrogate_file(tmp_path, bounds=Bounds(-1.0, 1.0)))}, "bounds"),
        ({"surrogates": ADVERSARIAL, "confidence": -1.0}, "confidence"),
        ({"surrogates": ADVERSARIAL, "options": "steps"}, "key=value"),
        ({"surrogates": ADVERSARIAL, "attack": "fmn", "options": "steps=0"}, "steps"),
    ):
        with pytest.raises(InvalidValue, match=said):
            attack("transfer", model, x, y, "linf:0.2", **facts)
    with pytest.raises(InvalidValue, match="classes"):
        attack("transfer", model, x, y, "linf:0.2", surrogates=str(surrogate_file(tmp_path, classes=7)))
