"""What the documentation says is true: links lead somewhere, code runs, output is as printed, tables are complete."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import robustscope
from robustscope.analyses import ANALYSES
from robustscope.attacks import ATTACKS
from robustscope.attacks.suites import SUITES
from robustscope.cli import COMMANDS, main
from robustscope.contracts import CHECKS
from robustscope.corruptions import CORRUPTIONS
from robustscope.data.datasets import SOURCES
from robustscope.models.layers import build
from robustscope.models.loading import LOADERS
from robustscope.probes import PROBES
from robustscope.runs.config import load_config
from robustscope.runs.store import COLUMNS
from robustscope.training import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
PLAN_ID = re.compile(r"\b[0-9a-f]{16}\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|root|tmp|work|Users|mnt|scratch)/[\w.-]")


def blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, content) of the fenced blocks of a page."""
    return FENCE.findall(text)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows of a page."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


# Output that was printed is output that is printed.


def same(expected: str, got: str) -> bool:
    """Tell whether two outputs agree: words exactly, numbers to within one sample.

    Floating-point sums differ between machines, so a sample at the very edge may fall to the other side. Plan ids
    change with the version; a line "..." stands for any lines.
    """
    if re.search(r"^\.\.\.$", expected, re.MULTILINE):
        head, _, tail = (part.strip("\n") for part in expected.partition("..."))
        lines, first, last = got.strip().splitlines(), len(head.splitlines()), len(tail.splitlines())
        ends = "\n".join(lines[len(lines) - last :])
        return len(lines) > first + last and same(head, "\n".join(lines[:first])) and same(tail, ends)
    parts = [(NUMBER.split(t), NUMBER.findall(t)) for t in (PLAN_ID.sub("ID", t.strip()) for t in (expected, got))]
    (words, numbers), (other_words, other_numbers) = parts
    if words != other_words:
        return False
    pairs = [
        (float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in zip(numbers, other_numbers, strict=True)
    ]
    return all(abs(a - b) <= max(1.0, 0.01 * a) for a, b in pairs)


def test_the_comparison_of_outputs_has_teeth():
    printed = "model: robust accuracy 10.0 % (20 of 200, 95 % interval 6.2-15.0)"
    assert same(printed, printed.replace("20 of", "21 of").replace("10.0", "10.5"))
    assert not same(printed, printed.replace("20 of", "22 of"))
    assert not same(printed, printed.replace("robust", "clean"))
    assert not same(printed, printed + "\nanother line")
    assert same("a 1\n...", "a 1\nb\nc")
    assert not same("a 1\n...", "b\na 1")
    assert not same("...\na 1", "a 1\nb")


def run_console(text: str) -> None:
    """Run the commands of a console block and compare what they print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "robustscope"
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught), contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
            main(arguments)
        assert same(expected, caught.getvalue()), f"$ {line}\n{caught.getvalue()}"


def run_page(text: str, folder: Path) -> int:
    """Run the python and console blocks of a page in order, in one namespace; return how many there were."""
    namespace: dict = {"__name__": "page"}
    found, count = blocks(text), 0
    for (language, code), (following, expected) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "console":
            run_console(code)
        elif language == "python" and (match := re.match(r"# (\w+\.py)\n", code)):
            (folder / match[1]).write_text(code, encoding="utf-8")
        elif language == "python":
            caught = io.StringIO()
            with contextlib.redirect_stdout(caught):
                exec(compile(code, "<page>", "exec"), namespace)
            if following == "text":
                assert same(expected, caught.getvalue()), caught.getvalue()
        else:
            continue
        count += 1
    return count


@pytest.fixture
def restored():
    """One thread while a page runs; registries, modules and threads as they were before afterwards."""
    registries = (ATTACKS, SOURCES, LOADERS, ANALYSES, PROBES, CORRUPTIONS, OBJECTIVES)
    before = [{card.name for card in registry} for registry in registries]
    modules, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for registry, names in zip(registries, before, strict=True):
        for card in list(registry):
            if card.name not in names:
                registry.remove(card.name)
    for name in {"halving"} - modules:
        sys.modules.pop(name, None)


PAGES_THAT_RUN = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "start",
            "adding",
            "models",
            "data",
            "what-models-look-at",
            "threat-sets",
            "black-box",
            "autoattack",
            "attack-your-own-defence",
            "training",
            "trust",
            "certificates",
            "corruptions",
            "video",
            "masks",
            "limits",
            "causes",
            "claims",
        )
    ),
]


@pytest.mark.parametrize("name", PAGES_THAT_RUN)
def test_code_runs_and_prints_what_the_page_says(name, tmp_path, monkeypatch, restored):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustscope.cli.evaluate_command.worker_count", lambda workers, plan: 1)
    assert run_page(read(name), tmp_path) > 0


def test_running_a_page_has_teeth(tmp_path):
    page = "```python\nprint(1 + 1)\n```\n\n```text\n{}\n```\n"
    assert run_page(page.format(2), tmp_path) == 1
    with pytest.raises(AssertionError):
        run_page(page.format("two"), tmp_path)


def test_no_page_with_code_is_forgotten():
    listed = {*PAGES_THAT_RUN}
    with_code = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(language in ("python", "console") for language, _ in blocks(page.read_text(encoding="utf-8")))
    }
    assert with_code <= listed


def test_the_configuration_in_the_tutorial_is_read(tmp_path):
    (text,) = [code for language, code in blocks(read("docs/start.md")) if language == "toml"]
    path = tmp_path / "first.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert (config.data, config.settings.suite, config.models[0].name) == ("digits", "fast", "plain")


def test_the_card_in_the_models_page_is_one():
    (text,) = [code for language, code in blocks(read("docs/models.md")) if language == "json"]
    card = json.loads(text)
    assert build(card["layers"])[1].out_features == card["num_classes"] == len(card["class_names"])


# Links and names.


def slugs(text: str) -> set[str]:
    """Return the anchors that a page's headings give, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(FENCE, "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    found = []
    for target in LINK.findall(re.sub(FENCE, "", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in slugs(goal.read_text(encoding="utf-8"))):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](nothing.md) [b](page.md#one) [c](#two) [d](https://example.org)", encoding="utf-8")
    assert dead_links(page) == ["nothing.md", "#two"]


def test_every_decision_is_in_the_index():
    files = {path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")}
    assert files
    assert files == set(LINK.findall(read("docs/decisions/README.md")))


# Tables name all there is, and nothing else.


def test_the_readme_lists_every_attack_as_its_card_says():
    table = {
        match[1]: (norms, access)
        for name, norms, access, *_ in (row for row in rows(read("README.md")) if len(row) == 4)
        if (match := re.match(r"\[`(\w+)`\]", name))
    }
    assert table == {card.name: (", ".join(card.kinds), card.access) for card in ATTACKS}


def test_the_readme_lists_every_suite_command_and_extra():
    first = {row[0] for row in rows(read("README.md"))}
    assert {f"`robustscope {name}`" for name in COMMANDS} == {cell for cell in first if cell.startswith("`robustscope")}
    names = "|".join(sorted((card.name for card in ATTACKS), key=len, reverse=True))
    for name, attacks in SUITES.items():
        (row,) = [row for row in rows(read("README.md")) if row[0].split(" ")[0] == f"`{name}`" and len(row) == 2]
        assert re.findall(rf"\b(?:{names})\b", row[1].replace("the same", "pgd")) == [n for n, _ in attacks]
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    assert {name for name in extras if not any(f"`{name}`" in cell for cell in first)} == set()


def test_the_pages_list_every_source_of_models_and_data():
    data = " ".join(row[0] for row in rows(read("docs/data.md")))
    assert {card.name for card in SOURCES if not re.search(rf"`{card.name}\b", data)} == set()
    models = " ".join(row[0] + row[-1] for row in rows(read("docs/models.md")))
    signs = {card.name: [f"{card.prefix}:"] if card.prefix else list(card.suffixes) for card in LOADERS}
    assert {name for name, marks in signs.items() if not all(mark in models for mark in marks)} == set()


def test_the_design_page_describes_every_column():
    text = read("docs/design.md").split("**Columns**")[1]
    named = [name for row in rows(text) for name in re.findall(r"`(\w+)`", row[0])]
    assert named == list(COLUMNS)


def test_adding_names_every_check():
    section = read("docs/adding.md").split("### What is checked")[1].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", section)) == set(CHECKS)


# Pages that are written from cards.


def generator():
    spec = importlib.util.spec_from_file_location("generate_methods", ROOT / "docs" / "generate_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_pages_are_up_to_date():
    assert generator().stale() == [], "run: python docs/generate_methods.py"


def test_the_list_of_claims_is_up_to_date():
    text = read("docs/claims.md")
    assert generator().with_claims(text) == text, "run: python docs/generate_methods.py"


def test_stale_method_pages_are_found(tmp_path):
    module = generator()
    for name, text in module.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert module.stale(tmp_path) == []
    (tmp_path / "pgd.md").write_text("old", encoding="utf-8")
    (tmp_path / "gone.md").write_text("left over", encoding="utf-8")
    (tmp_path / "bim.md").unlink()
    assert module.stale(tmp_path) == ["bim.md", "gone.md", "pgd.md"]


def test_every_parameter_has_its_meaning_on_its_page():
    for card in (card for registry in generator().KINDS.values() for card in registry):
        page = read(f"docs/methods/{generator().known_as(card)}.md")
        meanings = {row[0].strip("`"): row[2] for row in rows(page) if len(row) == 3}
        assert all(meanings.get(name) for name in card.parameters), card.name


# Files about the project.


def project_files() -> list[Path]:
    """Return the text files of the project: what git knows or would take, or everything that is no build output."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [
            str(p.relative_to(ROOT))
            for p in ROOT.rglob("*")
            if not re.match(r"\.|runs|demo", p.relative_to(ROOT).parts[0])
        ]
    binary = {".safetensors", ".png", ".pyc", ".parquet"}
    return [ROOT / name for name in listed if name and (ROOT / name).is_file() and Path(name).suffix not in binary]


def machine_paths(text: str) -> list[str]:
    return MACHINE_PATH.findall(text)


def test_no_file_names_a_place_on_somebodys_machine():
    files = project_files()
    assert len(files) > 100
    found = [path.name for path in files if machine_paths(path.read_text(encoding="utf-8", errors="replace"))]
    assert found == []


@pytest.mark.parametrize("place", ["home", "tmp", "Users"])
def test_places_on_a_machine_are_found(place):
    assert machine_paths(f"see /{place}/me/run")
    assert not machine_paths(f"https://example.org/{place}/me")


def test_the_changelog_begins_with_what_is_unreleased():
    headings = re.findall(r"^##+ (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert headings[1] in ("Added", "Changed", "Fixed", "Removed")


def test_versions_agree_and_no_person_is_invented():
    text = read("CITATION.cff")
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [robustscope.__version__]
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == robustscope.__version__
    assert not re.search(r"family-names|given-names", text)
