"""The house has floors: a module imports from lower floors or its own room only, and some rooms know no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "robustscope"
FLOORS = [
    {"core"},
    {"geometry", "models", "data"},
    {"attacks", "probes", "certify", "estimates", "limits", "corruptions", "defenses", "tasks"},
    {"training"},
    {"runs", "analyses"},
    {"claims"},
    {"reports", "contracts", "serve"},
    {"api"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = ("analyses", "reports")
METHOD_ROOMS = {
    "attacks": "ATTACKS",
    "certify": "CERTIFIERS",
    "claims": "CLAIMS",
    "corruptions": "CORRUPTIONS",
    "defenses": "DEFENSES",
    "estimates": "ESTIMATES",
    "limits": "LIMITS",
    "probes": "PROBES",
    "probes/why": "WHY",
    "training/objectives": "OBJECTIVES",
}
# Files of method rooms that are not methods.
HELPERS = {
    "attacks": {
        "adam",
        "adaptive",
        "apgd_runs",
        "apgd_walk",
        "approach",
        "ascent",
        "cards",
        "checklist",
        "comparison",
        "compose",
        "confident",
        "decision_search",
        "finite_differences",
        "constants",
        "climb",
        "descent",
        "estimates",
        "guessing",
        "prospects",
        "race",
        "search",
        "square_windows",
        "suites",
        "twins",
        "universal_craft",
        "verify",
    },
    "certify": {
        "bounds",
        "cards",
        "graph",
        "layers",
        "margins",
        "operations",
        "program",
        "radius",
        "region",
        "relaxations",
        "slopes",
    },
    "claims": {"cards", "effects", "lab", "run"},
    "corruptions": {
        "cards",
        "colours",
        "compose",
        "counts",
        "edges",
        "filters",
        "jpeg",
        "lines",
        "numbers",
        "plasma",
        "resample",
        "suites",
        "tables",
        "textures",
    },
    "defenses": {"apply", "cards", "hgd"},
    "estimates": {"cards", "compose", "extrapolation", "points", "records", "weibull"},
    "limits": {"cards", "generators", "latent_linear", "latent_search"},
    "probes": {
        "bench",
        "cards",
        "doctor",
        "doctor_case",
        "doctor_inputs",
        "doctor_model",
        "features",
        "flags",
        "trust",
    },
    "probes/why": {"cards", "compose", "sparsity", "walks"},
}


def imports(path: Path) -> list[str]:
    """Return the absolute names of the robustscope modules that a file imports, at any depth."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == "robustscope"]


def violation(room: str, name: str) -> str | None:
    """Say why a module of ``room`` may not import ``name``, or None."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] not in FLOOR:
        return None if len(parts) == 1 else f"{name} is in no known room"
    other = parts[1]
    if other == room or FLOOR[other] < FLOOR[room]:
        return None
    return f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def rooms() -> list[str]:
    return sorted(path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.rglob("*.py")))


@pytest.mark.parametrize("room", [*rooms(), "api"])
def test_a_room_imports_from_lower_floors_only(room):
    assert room in FLOOR, f"{room} has no floor: name it in FLOORS"
    files = [SOURCE / "api.py"] if room == "api" else list((SOURCE / room).rglob("*.py"))
    problems = [
        f"{path.relative_to(SOURCE)}: {why}"
        for path in files
        for name in imports(path)
        if (why := violation(room, name))
    ]
    assert not problems, "\n".join(problems)


def test_the_rule_has_teeth():
    assert violation("core", "robustscope.geometry.balls")
    assert violation("analyses", "robustscope.runs.store")
    assert violation("attacks", "robustscope.nowhere")
    assert violation("reports", "robustscope.runs.store") is None


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_some_rooms_know_no_torch(room):
    code = f"import sys, robustscope.{room}; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_needs_no_torch():
    code = "import sys; from robustscope.cli import build; build(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", sorted(METHOD_ROOMS))
def test_each_method_file_registers_something(room):
    import importlib

    registry = getattr(importlib.import_module(f"robustscope.{room.replace('/', '.')}"), METHOD_ROOMS[room])
    homes = {card.function.__module__.rsplit(".", 1)[1] for card in registry}
    files = {path.stem for path in (SOURCE / room).glob("*.py") if not path.stem.startswith("_")}
    files -= HELPERS.get(room, set())
    assert files == homes
