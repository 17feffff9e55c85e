"""What reports say of verdicts, certificates and brackets."""

import math
from xml.etree import ElementTree

import pandas as pd
import pytest

from robustscope.reports.bracket_figures import bracket_figure, chosen_fits, fit_figure
from robustscope.reports.html import render_html
from robustscope.reports.markdown import render_markdown
from robustscope.reports.measures import WITHOUT, brackets, certified_of, trust_of
from robustscope.reports.summary import audit_sentence, gather
from robustscope.reports.write import write_report
from robustscope.runs.measured import COLUMNS
from run_factory import make_plan, make_table, write_run

FIT = {"warnings": [], "location": 3.0, "scale": 1.0, "shape": 2.0, "p_value": 0.5, "maxima": [1.0, 1.8, 2.1, 2.4, 2.6]}


def row(sample, certified=0.02, estimate=0.03, nearest=0.05, **more):
    known = {"model": "<script>", "norm": "linf", "epsilon": 0.04, "largest": 0.16, "sample": sample, "y": 1}
    known |= {
        "class_name": "<b>one</b>",
        "certifier": "crown",
        "estimator": "clever",
        "attack": "nearest",
        "failed": None,
    }
    above = estimate is not None and nearest is not None and estimate > nearest
    known |= {"certified": certified, "estimate": estimate, "nearest": nearest, "contradicts": above, "flags": []}
    return {**known, "fit": dict(FIT), **more}


def texts(svg):
    return "".join(ElementTree.fromstring(svg).itertext())


@pytest.mark.parametrize(
    "rows",
    [
        [row(1), row(2, estimate=0.07), row(3, nearest=None)],
        [row(1, certified=None, estimate=None, nearest=None)],
        [row(1, certified=0.0, estimate=math.inf)],
    ],
)
def test_a_bracket_is_drawn_whatever_is_missing(rows):
    svg = bracket_figure(rows, 0.04, 0.16, "b")
    assert "radius" in texts(svg)
    assert "NaN" not in svg
    assert "nan" not in svg.lower().replace("nanum", "")


def test_estimates_above_an_example_are_drawn_in_red_and_no_others():
    honest, fooled = bracket_figure([row(1)], 0.04, 0.16, "b"), bracket_figure([row(1, estimate=0.07)], 0.04, 0.16, "b")
    assert "#b42318" in fooled
    assert "#b42318" not in honest


def test_fits_that_are_worst_and_best_are_shown():
    rows = [row(i, fit={**FIT, "p_value": (i + 1) / 20}) for i in range(12)]
    rows += [row(20, fit=None), row(21, fit={**FIT, "shape": None})]
    assert [r["sample"] for r in chosen_fits(rows)] == [0, 1, 2, 9, 10, 11]
    svg = fit_figure(chosen_fits(rows), "f")
    assert "sample 0, KS p = 0.05" in texts(svg)
    assert fit_figure([row(0, fit={**FIT, "location": 90.0})], "f")  # far beyond what was seen


def test_the_sentence_of_a_bracket_counts_what_is_refuted():
    entry = brackets(
        [row(1), row(2, certified=0.01), row(3, estimate=0.07), row(4, estimate=None, failed="clever: no")]
    )[0]
    assert entry["gap"] == 2.5  # median of 0.05 / (0.02, 0.01, 0.02, 0.02)
    assert entry["contradicted"] == [3]
    assert "1 of 3 estimates of clever lie above the nearest example" in entry["sentence"]
    assert entry["failed"] == 1
    assert brackets([]) == []


def verdict(word, *checks):
    found = {
        "model": "standard",
        "norm": "linf",
        "epsilon": 0.1,
        "verdict": word,
        "why": ["because"],
        "n": 32,
        "left": 4,
    }
    return {"trust": [{**found, "white": "pgd", "checks": [*checks]}]}


def check(name, said, weight=0):
    return {"name": name, "verdict": said, "weight": weight}


NOTHING = pd.DataFrame(columns=list(COLUMNS))
THREAT = {"norm": "linf", "epsilon": 0.1}


def test_the_verdict_is_said_in_one_sentence():
    good = trust_of({}, verdict("trust", check("a", "pass"), check("b", "not applicable")), NOTHING, "standard", THREAT)
    assert good["sentence"].startswith("Trust: all 1 checks that apply were passed on 32 samples")
    assert good["grade"] == "trust"
    failed = [check(name, "fail", 3) for name in ("no_noise", "b", "c", "d")]
    bad = trust_of({}, verdict("do not trust this number", *failed), NOTHING, "standard", THREAT)
    assert bad["told"] == "4 of 4 checks failed on 32 samples (no noise, b, c and 1 more)"
    assert bad["sentence"].startswith("Do not trust this number: 4 of 4")
    assert (
        trust_of({}, verdict("doubt", check("a", "pass")), NOTHING, "standard", THREAT)["sentence"] == "Doubt: because"
    )


def test_a_missing_verdict_says_why():
    plan = {"request": {"settings": {"trust": "32"}}}
    assert trust_of(plan, {}, NOTHING, "standard", THREAT)["why"] == [WITHOUT]
    assert "switched off" in trust_of({}, {}, NOTHING, "standard", THREAT)["sentence"]
    plan["measures"] = [{"index": 0, "kind": "trust", "model": "standard", "norm": "linf", "epsilon": 0.1}]
    failed = pd.DataFrame([{"measure": 0, "status": "error", "note": "RuntimeError: no memory"}])
    assert "no memory" in trust_of(plan, {}, failed, "standard", THREAT)["sentence"]
    nobody = pd.DataFrame([{"measure": 0, "status": "skipped", "note": ""}])
    assert "no sample is classified correctly" in trust_of(plan, {}, nobody, "standard", THREAT)["sentence"]


def test_a_certified_accuracy_is_a_rate_with_its_reason():
    line = {"model": "m", "norm": "linf", "epsilon": 0.1, "method": "crown", "sound": "deterministic", "n": 10, "k": 4}
    line |= {"accuracy": 0.4, "low": 0.12, "high": 0.74, "timeouts": 2, "undecided": 3, "reason": None}
    said = certified_of({"certified": [line]}, "m", THREAT)[0]
    assert said["value"] == 0.4
    assert "3 samples are neither certified nor broken, 2 ran out of time" in said["sentence"]
    other = certified_of({"certified": [{**line, "sound": "probabilistic", "undecided": None}]}, "m", THREAT)[0]
    assert "of another classifier" in other["sentence"]
    assert other["name"] == "crown (the vote under noise)"
    gap = {**line, "accuracy": None, "low": None, "high": None, "k": None, "reason": "2 ended in an error"}
    assert "withheld" in certified_of({"certified": [gap]}, "m", THREAT)[0]["sentence"]
    assert certified_of({"certified": [line]}, "other", THREAT) == []


def test_the_audit_says_how_many_needed_none():
    audit = {
        "bound": 0.01,
        "survivors": 50,
        "certified": 7,
        "audited": 20,
        "found": 0,
        "escalated": [],
        "unaudited": 23,
    }
    audit |= {"confidence": 0.95, "asked": 0.02, "kept": True, "broken_by_escalation": 0}
    assert "from all but the 7 that are certified" in audit_sentence(audit)
    assert "certified" not in audit_sentence({**audit, "certified": 0})


def test_pages_show_verdict_and_bracket_and_escape_everything(tmp_path):
    plan = make_plan(names=("<script>",))
    run = write_run(tmp_path, plan, make_table(plan))
    summary, pictures = gather(run)
    summary["brackets"] = brackets([row(1), row(2, estimate=0.07, flags=["<i>bad</i>"])])
    for model in summary["models"]:
        for threat in model["threats"]:
            evil = {"evidence": "<img src=x>", "means": "m", "remedy": "r", "forward": 1, "backward": 0}
            record = verdict("doubt", {**check("a", "fail", 1), **evil})
            threat["trust"] = trust_of(plan, record, NOTHING, "standard", THREAT)
    page, text = render_html(summary, pictures), render_markdown(summary)
    for wanted in ("How far, how sure", "Can it be trusted?", 'class="verdict doubt"', 'class="contradicts"'):
        assert wanted in page
    for evil in ("<script>", "<b>one", "<i>bad", "<img src=x"):
        assert evil not in page
        assert evil not in text
    assert "| 2 | " in text
    assert write_report(run)["html"].read_text().count('class="verdict none"') == 1
