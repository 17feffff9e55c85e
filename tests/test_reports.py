"""Reports: the same numbers three times, safe to open, the same bytes every time, honest about what failed."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import robustscope.reports
from robustscope.core.errors import CorruptRun, MissingFile
from robustscope.reports import summarise, write_report
from robustscope.reports.figures import figures
from robustscope.reports.formats import interval, percent
from robustscope.reports.gallery import collect, png
from robustscope.reports.html import environment, policy, render_html, style
from robustscope.runs import store
from run_factory import make_plan, make_table, write_run

HOSTILE = "<script>alert(1)</script>"
NASTY = [HOSTILE, '"><img src=x onerror=alert(2)>', "{{ 7*7 }}", "a|b`c`", "$\\frac{1}{0}$", "](javascript:alert(3))"]


class Page(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def world(tmp_path: Path, **changes) -> Path:
    radii = (("linf", 0.05, False), ("linf", 0.1, True), ("l2", 0.2, True))
    plan = make_plan(names=("standard", "trained"), radii=radii, n=40, **changes)
    return write_run(tmp_path / "run", plan, make_table(plan, scale={"standard": 0.06, "trained": 0.4}))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = world(tmp_path_factory.mktemp("report"))
    write_report(folder)
    return folder


def test_the_top_of_report_json_is_the_first_model_at_the_first_threat(run):
    content = json.loads((run / "report.json").read_text(encoding="utf-8"))
    plan, table = store.read_plan(run), store.read_table(run)
    mine = table[table["cell"].isin([cell["index"] for cell in plan["cells"] if cell["model"] == "standard"])]
    linf = mine[mine["cell"] < 6]
    broken = set(linf.loc[linf["success"].fillna(False), "sample"])
    correct = set(mine.loc[mine["clean_correct"], "sample"])
    assert content["clean_accuracy"]["k"] == len(correct)
    assert content["robust_accuracy"]["k"] == len(correct - broken)
    assert content["robust_accuracy"]["value"] == len(correct - broken) / 40
    assert content["robust_accuracy"]["n"] == 40
    assert content["cost"]["backward"] == linf["backward"].sum() / 40
    assert content["plan_id"] == plan["id"]
    assert content == summarise(run)


def test_all_three_say_the_same_numbers(run):
    content = summarise(run)
    page = html.unescape((run / "report.html").read_text(encoding="utf-8"))
    twin = (run / "report.md").read_text(encoding="utf-8")
    for model in content["models"]:
        assert model["sentence"] in page
        assert model["sentence"] in twin
        for rate in (model["clean_accuracy"], *(threat["robust_accuracy"] for threat in model["threats"])):
            for text in (percent(rate["value"]), interval(rate["low"], rate["high"])):
                assert text in page
                assert text in twin
    for item in content["warnings"]:
        assert item["message"] in page
    assert content["plan_id"] in page
    assert content["plan_id"] in twin


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    first = {kind: path.read_bytes() for kind, path in write_report(run, tmp_path / "a").items()}
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        second = {kind: path.read_bytes() for kind, path in write_report(run, tmp_path / "b").items()}
    assert first == second
    assert set(first) == {"json", "md", "html"}
    assert not list((tmp_path / "a").glob("*.part"))


def test_drawing_leaves_matplotlib_alone(run):
    names = [name for name in mpl.rcParams if name != "backend"]  # asking for the backend would choose one
    before = {name: mpl.rcParams[name] for name in names}
    figures(summarise(run))
    assert {name: mpl.rcParams[name] for name in names} == before


def test_importing_reports_imports_no_torch():
    code = "import sys, robustscope.reports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_writing_a_report_imports_neither_torch_nor_pyplot(run, tmp_path):
    code = (
        "import sys; from robustscope.reports import write_report; write_report(sys.argv[1], sys.argv[2]);"
        "sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path)], check=False).returncode == 0


def test_the_page_is_self_contained_and_runs_nothing(run):
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base", "foreignobject"}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (tag, attrs)
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attrs.get(name) or "#").startswith(("data:image/png;base64,", "#"))
    assert "@import" not in style()
    assert "url(" not in style()
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    text = (run / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_the_policy_admits_our_style_and_nothing_else(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    (given,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    (found,) = [a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert found == policy(given)
    assert found != policy(given + " ")
    assert found.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in found


def test_hostile_names_stay_text(tmp_path):
    plan = make_plan(names=(HOSTILE, NASTY[1]), class_names=NASTY, n=20, classes=6)
    plan["data"]["name"] = plan["suite"] = HOSTILE
    plan["cells"][1]["label"] = NASTY[1]
    attacks = [{**a, "label": c["label"]} for a, c in zip(_attacks(), plan["cells"][:3])]
    attacks += [a for a in _attacks() if a["label"] == "fgsm"]
    table = make_table(plan, attacks=attacks, scale={HOSTILE: 0.05})
    folder = write_run(tmp_path / "run", plan, table, record={"warnings": [HOSTILE], "device": HOSTILE})
    paths = write_report(folder)
    text = paths["html"].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert html.escape(HOSTILE, quote=False) in text
    assert "{{ 7*7 }}" in text
    twin = paths["md"].read_text(encoding="utf-8")
    assert not re.search(r"<(?!br)[a-z/]", twin)
    assert not re.search(r"(?<!\\)\]\(", twin)
    assert "a\\|b" in twin


def _attacks():
    from run_factory import ATTACKS

    return [dict(attack) for attack in ATTACKS]


def test_the_template_environment_escapes_and_refuses_unknown_names():
    env = environment()
    assert env.from_string("{{ x }}").render(x=HOSTILE) == html.escape(HOSTILE)
    with pytest.raises(Exception, match="undefined"):
        env.from_string("{{ absent }}").render()


def failing(tmp_path: Path) -> Path:
    plan = make_plan(n=40)
    table = make_table(plan)
    row = table.index[(table["cell"] == 5) & (table["status"] == "ok")][0]
    table.loc[row, ["status", "note", "success", "distance"]] = ["error", "RuntimeError: <b>boom</b>", pd.NA, np.nan]
    return write_run(tmp_path / "run", plan, table)


def test_error_rows_withhold_the_headline_and_are_said_first(tmp_path):
    paths = write_report(failing(tmp_path))
    content = json.loads(paths["json"].read_text(encoding="utf-8"))
    rate = content["robust_accuracy"]
    assert [rate[key] for key in ("value", "low", "high", "k")] == [None] * 4
    assert "boom" in rate["reason"]
    assert content["clean_accuracy"]["value"] is not None
    assert content["warnings"][0]["level"] == "error"
    assert "withheld" in content["models"][0]["sentence"]
    page = paths["html"].read_text(encoding="utf-8")
    assert page.index("RuntimeError") < page.index("<h2>Result")
    assert "<b>boom" not in page
    assert "**withheld** (of 40)" in paths["md"].read_text(encoding="utf-8")


def said(folder: Path, words: str) -> bool:
    return any(words in item["message"] for item in summarise(folder)["warnings"])


def test_the_limits_of_robust_accuracy_are_always_stated(run):
    assert said(run, "upper bound")


AGAIN = [{"model": "standard", "samples": 3, "forward": 30, "backward": 27}]


@pytest.fixture(scope="module")
def unremarkable(tmp_path_factory) -> str:
    """What is said of a run that gives no reason for caution."""
    sound = make_plan(n=120)
    table = make_table(sound, scale={"standard": 0.2})
    table.loc[table["success"].fillna(False), "survives_8bit"] = True
    noise = table["cell"].isin([0, 3]) & table["success"].fillna(False)
    table.loc[noise, ["success", "survives_8bit", "survives_alone"]] = [False, pd.NA, pd.NA]
    folder = write_run(tmp_path_factory.mktemp("sound"), sound, table)
    return " ".join(item["message"] for item in summarise(folder)["warnings"])


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("not complete", {"record": {"complete": False}}),
        ("uncommitted", {"record": {"git": {"revision": "f", "dirty": True}}}),
        ("During the run: loose screw (2 times)", {"record": {"warnings": ["loose screw", "loose screw"]}}),
        ("more than the forecast", {"plan": {"cost": {"forward": 3, "backward": 3}}}),
        ("Only 40 samples", {"n": 40}),
        ("Without any attacker, noise breaks", {"scale": 0.02}),
        ("still fool", {"scale": 0.05}),
        ("cannot be told from guessing", {"scale": 0.0005}),
        ("No attack broke a single sample", {"scale": 100.0}),
        ("weaker than noise", {"swap": True}),
        ("beyond epsilon", {"rounding": True}),
        ("Only noise was run", {"noise": True}),
        ("fool it in a second pass too", {"alone": True}),
        ("fool standard in a batch but not alone, though", {"alone": False}),
        ("these samples were attacked again one by one, by 30 rows forward", {"record": {"alone": AGAIN}}),
    ],
)
def test_cautions_are_raised_when_due_and_only_then(tmp_path, unremarkable, words, changes):
    assert words not in unremarkable
    plan = make_plan(n=changes.get("n", 120), attacks=_attacks()[:1] if changes.get("noise") else _attacks())
    plan |= changes.get("plan", {})
    table = make_table(plan, scale={"standard": changes.get("scale", 0.2)})
    if changes.get("swap"):
        table["cell"] = table["cell"].map({0: 2, 1: 1, 2: 0, 3: 5, 4: 4, 5: 3})
    if "alone" in changes:  # a second draw that came out otherwise, or a success taken back
        reverted = table["success"].fillna(False) & (table["sample"] % 2 == 0)
        table.loc[reverted, ["success", "survives_alone"]] = [changes["alone"], False]
    if changes.get("rounding"):
        table["distance"] = table["distance"] * (1 + 1e-7)
    assert said(write_run(tmp_path / "odd", plan, table, record=changes.get("record")), words)


def test_a_run_without_a_record_is_not_complete(tmp_path):
    folder = world(tmp_path)
    (folder / "record.json").unlink()
    assert said(folder, "not complete")
    write_report(folder)


def test_a_truncated_shard_and_an_absent_run_are_refused(tmp_path):
    folder = world(tmp_path)
    shard = folder / "shards" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(CorruptRun):
        write_report(folder)
    assert not (folder / "report.html").exists()
    with pytest.raises(MissingFile):
        write_report(tmp_path / "nowhere")


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_those_of_the_evidence(run):
    plan, table = store.read_plan(run), store.read_table(run)
    pictures, reason = collect(run, plan, table)
    assert reason is None
    assert {picture.facts["model"] for picture in pictures} == {"standard", "trained"}
    for picture in pictures:
        facts = picture.facts
        shard = next(p for p in plan["shards"] if p["model"] == facts["model"] and facts["sample"] in p["ids"])
        evidence = store.read_evidence(run, shard["index"])
        x = evidence["gallery/x"][evidence["gallery/samples"].tolist().index(facts["sample"])][0]
        samples = evidence[f"cell/{facts['cell']}/samples"].tolist()
        x_adv = evidence[f"cell/{facts['cell']}/x_adv"][samples.index(facts["sample"])][0]
        assert np.abs(np.asarray(decode(picture.original)) / 255 - x).max() < 0.002
        assert np.abs(np.asarray(decode(picture.adversarial)) / 255 - x_adv).max() < 0.002
        shown = (np.asarray(decode(picture.perturbation)) / 255 - 0.5) / facts["magnified"]
        assert np.abs(shown - (x_adv - x)).max() < 0.004 / facts["magnified"]


def test_colour_pictures_and_large_ones():
    ramp = np.stack([np.full((300, 200), v) for v in (0.0, 0.5, 1.5)])
    image = decode(png(ramp))
    assert image.mode == "RGB"
    assert max(image.size) == 224
    assert image.getpixel((3, 3)) == (0, 128, 255)


def test_bounds_other_than_the_unit_interval_are_drawn_right(tmp_path):
    plan = make_plan(n=20)
    plan["models"][0]["bounds"] = [-1, 1]
    folder = write_run(tmp_path / "run", plan, make_table(plan, scale={"standard": 0.04}))
    picture = collect(folder, store.read_plan(folder), store.read_table(folder))[0][0]
    assert np.asarray(decode(picture.original)).min() >= 127  # stored values are in [0, 1]: the upper half


@pytest.mark.parametrize(("shape", "kind"), [((3, 6, 6), True), ((12,), False), ((2, 4, 4), False)])
def test_the_gallery_is_for_images(tmp_path, shape, kind):
    folder = world(tmp_path, shape=shape)
    page = write_report(folder)["html"].read_text(encoding="utf-8")
    assert ("data:image/png" in page) is kind
    assert ("are not images" in page) is not kind


def test_missing_evidence_is_said_where_the_gallery_would_be(tmp_path):
    folder = world(tmp_path)
    for path in (folder / "evidence").iterdir():
        path.write_bytes(b"no")
    page = write_report(folder)["html"].read_text(encoding="utf-8")
    assert "No gallery: the evidence" in page


def test_a_model_that_nothing_breaks(tmp_path):
    plan = make_plan(n=30)
    folder = write_run(tmp_path / "run", plan, make_table(plan, true_radius={"standard": [9.0] * 30}))
    page = write_report(folder)["html"].read_text(encoding="utf-8")
    assert "No sample was broken." in page
    assert "100.0" in page


def test_many_models_and_classes_stay_readable(tmp_path):
    plan = make_plan(names=[f"m{i}" for i in range(6)], n=50, classes=25, shards=1)
    folder = write_run(tmp_path / "run", plan, make_table(plan))
    page = write_report(folder)["html"].read_text(encoding="utf-8")
    assert "The first 12 of 15 are shown" in page
    assert "The 20 least robust classes" in page
    assert len(summarise(folder)["per_class"]) == 6 * 25


def test_of_many_cautions_the_gravest_stay_open(tmp_path):
    plan = make_plan(n=120)
    folder = write_run(tmp_path / "run", plan, make_table(plan), record={"warnings": [f"w{i}." for i in range(12)]})
    page = write_report(folder)["html"].read_text(encoding="utf-8")
    assert "more cautions and notes</summary>" in page
    assert page.index("w3.") < page.index("more cautions") < page.index("w11.") < page.index("<h2>Result")
    assert page.index("upper bound") < page.index("more cautions")


def test_rounding_of_names_cannot_merge_two_radii(tmp_path):
    plan = make_plan(radii=(("linf", 8 / 255, True), ("linf", 8.0001 / 255, True)), n=20)
    folder = write_run(tmp_path / "run", plan, make_table(plan))
    assert len(summarise(folder)["models"][0]["threats"]) == 2


def test_a_picture_of_nothing_is_not_needed(run):
    assert "<img" not in render_html({**summarise(run), "gallery": {"reason": "none kept", "items": []}})


def test_templates_lie_inside_the_package():
    folder = Path(robustscope.reports.__file__).parent / "templates"
    pages = {f"{name}.html.j2" for name in ("report", "atlas", "card", "shifts", "study", "training", "video")}
    assert {path.name for path in folder.iterdir()} == {*pages, "report.css"}
