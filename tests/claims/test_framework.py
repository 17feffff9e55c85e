"""Rules, effects, the lab, records, the command and the atlas."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from robustscope.claims import CLAIMS, Batch, Effect, Evidence, Lab, Plot, Rule, Setting, Subject, run_claim, run_claims
from robustscope.claims import lab as lab_module
from robustscope.claims.effects import column, correlation, difference, exact, mean, share
from robustscope.cli import main
from robustscope.core.errors import CorruptRun, InvalidValue, MissingFile, UnknownName
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.reports.atlas import read_claims, write_atlas

QUICK = CLAIMS["etmann2019"].quick


# Rules.


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (6.0, 9.0, "supported"),
        (5.0, 9.0, "inconclusive"),  # the threshold itself is not beyond it
        (1.0, 9.0, "inconclusive"),
        (-3.0, 4.0, "inconclusive"),
        (-3.0, 0.0, "inconclusive"),
        (-3.0, -0.1, "contradicted"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, verdict):
    effect = Effect((low + high) / 2, low, high, 5, "networks")
    assert Rule("gap", "points", "above", 5.0, 0.0).verdict(effect) == verdict
    mirrored = Effect(-effect.value, -high, -low, 5, "networks")
    assert Rule("gap", "points", "below", -5.0, 0.0).verdict(mirrored) == verdict


def test_without_a_second_size_the_threshold_decides_both_ways():
    rule = Rule("gap", "points", "above", 5.0)
    assert rule.verdict(exact(5.1)) == "supported"
    assert rule.verdict(exact(4.9)) == "contradicted"
    assert rule.words() == "supported above 5, contradicted below 5"


def test_one_contradiction_contradicts_and_all_must_support():
    card = dataclasses.replace(
        CLAIMS["tsipras2018"], rules=(Rule("a", "", "above", 1.0, 0.0), Rule("b", "", "above", 1.0, 0.0))
    )
    assert card.judge({"a": exact(2), "b": exact(2)})[0] == "supported"
    assert card.judge({"a": exact(2), "b": exact(0.5)})[0] == "inconclusive"
    assert card.judge({"a": exact(2), "b": exact(-1)})[0] == "contradicted"
    with pytest.raises(InvalidValue, match="effects"):
        card.judge({"a": exact(2)})
    with pytest.raises(InvalidValue, match="finite"):
        card.judge({"a": exact(2), "b": exact(math.inf)})


# Effects.


def test_the_interval_of_a_mean_covers_it():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 4))
    found = [mean(row) for row in draws]
    covered = np.mean([effect.low <= 3.0 <= effect.high for effect in found])
    assert 0.935 < covered < 0.965
    half = stats.norm.ppf(0.975) * draws.std(1, ddof=1) / 2  # what forgets that the deviation is estimated too
    assert np.mean(np.abs(draws.mean(1) - 3.0) <= half) < 0.9


def test_a_difference_is_one_of_pairs():
    effect = difference([10.0, 20.0, 30.0], [9.0, 19.0, 29.0])
    assert (effect.value, effect.low, effect.high, effect.n) == (1.0, 1.0, 1.0, 3)
    with pytest.raises(InvalidValue, match="two or more"):
        difference([1.0], [0.0])


def test_shares_and_correlations():
    assert share(0, 10).value == 0
    assert share(0, 10).high == pytest.approx(30.85, abs=0.01)
    assert correlation([1, 2, 3, 4, 5], [2, 4, 6, 8, 9]).value == pytest.approx(1.0)
    rows = [{"network": "a", "size": 1}, {"network": "b", "size": 2}]
    assert column(rows, "size").tolist() == [1.0, 2.0]
    with pytest.raises(InvalidValue, match="there"):
        column(rows, "size", network="c")


# The lab.


def small(folder, **facts):
    return Lab(folder, Setting("digits", "digits", **facts))


def test_a_network_is_trained_once_and_recalled(tmp_path, monkeypatch):
    trained = []

    def counted(recipe, **given):
        trained.append(recipe)
        return train(recipe, **given)

    train = lab_module.train
    monkeypatch.setattr(lab_module, "train", counted)
    first = small(tmp_path).network(1, objective="standard", epochs=2, samples=100)
    second = small(tmp_path).network(1, objective="standard", epochs=2, samples=100, name="again")
    assert len(trained) == 1
    recalling = small(tmp_path)
    recalling.network(1, objective="standard", epochs=2, samples=100)
    assert recalling.recalled == sum(row["seconds"] for row in first.history) > 0
    assert first.fingerprint == second.fingerprint
    assert (first.name, second.name, first.history, first.passes) == (
        "standard",
        "again",
        second.history,
        second.passes,
    )
    direct = train(trained[0]).module
    x = small(tmp_path).samples(20).x
    with torch.no_grad():
        assert torch.equal(direct(x), second.model.logits(x))
    others = [
        small(tmp_path).network(2, objective="standard", epochs=2, samples=100),
        small(tmp_path, seed=1).network(1, objective="standard", epochs=2, samples=100),
        small(tmp_path).network(1, objective="fgsm", epochs=2, samples=100),
        small(tmp_path).network(1, objective="fgsm", epochs=2, samples=100, radius=0.5),
    ]
    assert len(trained) == 4  # the seed of the setting and that of the network are counted together
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_table_pairs_networks_by_seed(tmp_path):
    lab = small(tmp_path)
    networks = {"plain": {"objective": "standard"}, "noisy": {"objective": "gaussian_noise"}}
    rows = lab.table(networks, 2, lambda subject: {"passes": subject.passes.backward}, epochs=1, samples=50)
    assert [(row["network"], row["seed"]) for row in rows] == [("plain", 0), ("plain", 1), ("noisy", 0), ("noisy", 1)]


def linear():
    """Return a lab question with a known answer: two classes, radius 0.1, half of the samples out of reach."""
    module = nn.Linear(4, 2).eval().requires_grad_(False)
    module.weight.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5]]))
    module.bias.zero_()
    x = torch.full((6, 4), 0.5)
    x[:, 0] += torch.tensor([0.05, 0.1, 0.14, 0.16, 0.2, -0.3])  # the margin is twice that, and 0.1 * 5 is lost
    x[:, 1] -= torch.tensor([0.05, 0.1, 0.0, 0.16, 0.2, 0.0])
    subject = Subject("linear", Classifier(module), "f" * 64)
    margin = module(x)[:, 0] - module(x)[:, 1]
    return subject, Batch(x, torch.zeros(6, dtype=torch.int64), tuple(range(6))), margin > 0.1 * 5


def test_robust_is_what_no_attack_breaks(tmp_path, monkeypatch):
    lab = small(tmp_path)
    subject, batch, robust = linear()
    assert 0 < int(robust.sum()) < 5
    threat = ThreatModel("linf", 0.1)
    assert torch.equal(lab.robust(subject, batch, threat), robust)
    assert not lab.correct(subject, batch)[5]
    monkeypatch.setattr(lab_module, "cascade", lambda *given: pytest.fail("was not recalled"))
    assert torch.equal(small(tmp_path).robust(subject, batch, threat), robust)


def test_distances_are_those_to_the_boundary(tmp_path):
    subject, batch, _ = linear()
    found = small(tmp_path).distance(subject, batch, "l2")
    weight = subject.model.module.weight
    exact_distance = (subject.model.logits(batch.x) @ torch.tensor([1.0, -1.0])) / (weight[0] - weight[1]).norm()
    assert found[5] == 0
    assert torch.allclose(found[:5].float(), exact_distance[:5], rtol=0.03)


def test_a_failed_attack_is_no_robustness(tmp_path, monkeypatch):
    subject, batch, _ = linear()
    original = lab_module.cascade
    monkeypatch.setattr(lab_module, "cascade", lambda *given: _failing(original))
    with pytest.raises(InvalidValue, match="out of luck"):
        small(tmp_path).robust(subject, batch)
    assert not list(tmp_path.rglob("*.safetensors"))


def _failing(original):
    step = original.__globals__["Step"]
    return iter([step(torch.arange(2), None, RuntimeError("out of luck"))])


def test_samples_are_a_seeded_subset(tmp_path):
    assert len(small(tmp_path).samples(10_000)) == 500
    one, two = small(tmp_path).samples(50), small(tmp_path, seed=3).samples(50)
    assert one.ids != two.ids
    assert set(one.ids) <= set(small(tmp_path).samples(100).ids)


# Records.


def test_the_same_question_is_answered_from_the_record(tmp_path):
    card = CLAIMS["etmann2019"]
    first = run_claim(card, tmp_path, parameters=QUICK)
    assert first["verdict"] in ("supported", "contradicted", "inconclusive")
    path = tmp_path / "claims" / "etmann2019.json"
    planted = {**json.loads(path.read_text()), "verdict": "planted"}
    path.write_text(json.dumps(planted))
    assert run_claim(card, tmp_path, parameters=QUICK)["verdict"] == "planted"
    assert run_claim(card, tmp_path, parameters=QUICK, again=True)["effects"] == first["effects"]
    other = run_claim(card, tmp_path, parameters={**QUICK, "samples": 50})
    assert other["identity"] != first["identity"]
    stricter = dataclasses.replace(card, rules=(dataclasses.replace(card.rules[0], threshold=0.9),))
    assert run_claim(stricter, tmp_path, parameters=QUICK)["identity"] != first["identity"]


def test_a_failing_claim_leaves_no_record_and_stops_no_other(tmp_path, monkeypatch):
    def fails(lab):
        raise InvalidValue("nothing was given", "something is allowed", "Give something.")

    broken = dataclasses.replace(CLAIMS["tsipras2018"], name="broken", function=fails)
    monkeypatch.setitem(CLAIMS._cards, "broken", broken)
    told = {}
    failed = run_claims(["broken", "tsipras2018"], tmp_path, report=told.__setitem__)
    assert list(failed) == ["broken"]
    assert "Give something" in failed["broken"]
    assert told["tsipras2018"] == "supported"
    assert [record["claim"] for record in read_claims(tmp_path)] == ["tsipras2018"]


def test_what_a_claim_cannot_use_is_refused(tmp_path):
    with pytest.raises(InvalidValue, match="formula"):
        run_claims(["tsipras2018"], tmp_path, data="digits")
    with pytest.raises(InvalidValue, match="trains its own"):
        run_claims(["etmann2019"], tmp_path, models=(("a", "net.json"),))
    with pytest.raises(InvalidValue, match="--data"):
        run_claims(["etmann2019"], tmp_path, full=True)
    with pytest.raises(InvalidValue, match="split"):
        run_claims(["etmann2019"], tmp_path, data="digits#train")
    with pytest.raises(UnknownName, match="penalties"):
        run_claims(["etmann2019"], tmp_path, parameters={"penalty": 1})
    assert not list(tmp_path.iterdir())


# The command and the atlas.


def run(capsys, *tokens):
    with pytest.raises(SystemExit) as stopped:
        main(["claims", *map(str, tokens)])
    said = capsys.readouterr()
    return stopped.value.code, said.out, said.err


def test_the_command(tmp_path, capsys):
    code, said, _ = run(capsys, "run", "tsipras2018", "--out", tmp_path, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["claims"][0]["verdict"] == "supported"
    code, said, _ = run(capsys, "list", "--json")
    assert {"etmann2019", "tsipras2018"} <= {card["name"] for card in json.loads(said)}
    code, said, _ = run(capsys, "run", "tsipras2018", "--out", tmp_path, "--set", "values=100", "--set", "p=0.9")
    assert code == 0
    assert read_claims(tmp_path)[0]["parameters"]["values"] == 100
    assert run(capsys, "run", "tsipras2018", "--data", "digits", "--out", tmp_path)[0] == 2
    code, _, said = run(capsys, "run", "tsipras", "--out", tmp_path)
    assert code == 2
    assert "tsipras2018" in said


def planted(lab):
    rows = [{"network": "<b>a</b>", "size": 1.0}, {"network": "b", "size": None}]
    return Evidence(
        {"gap": Effect(-2.0, -3.0, -1.0, 4, "networks")},
        {"networks": rows},
        (Plot("networks", "bars", "network", "size"),),
    )


def test_the_atlas_says_what_was_found_and_escapes_it(tmp_path):
    card = dataclasses.replace(
        CLAIMS["tsipras2018"],
        name="planted",
        function=planted,
        finding="<script>alert(1)</script>",
        rules=(Rule("gap", "points", "above", 5.0, 0.0),),
    )
    assert run_claim(card, tmp_path)["verdict"] == "contradicted"
    page = write_atlas(tmp_path, ("robustness and accuracy",), {"other": "no & luck"}, "robustscope claims atlas")
    text = page.read_text(encoding="utf-8")
    assert "1 contradicted" in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "no &amp; luck" in text
    twin = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "0 supported, 0 inconclusive, 1 contradicted" in twin
    assert "-2" in twin


def test_a_folder_without_claims_and_a_spoilt_record_are_refused(tmp_path):
    with pytest.raises(MissingFile, match="claims run"):
        read_claims(tmp_path)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.json").write_text("{}")
    with pytest.raises(CorruptRun, match="claim"):
        read_claims(tmp_path)
