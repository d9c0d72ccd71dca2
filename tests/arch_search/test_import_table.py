"""The import table of DESIGN.md, read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUND = ("kernels", "slurm", "cognition_db")
# Layers of arch_search from the top; a module may import its own layer's room and any layer below.
LAYERS = [
    {"cli", "commands", "display"},
    {
        "campaign",
        "generation",
        "driver",
        "drawing",
        "baselines",
        "proposing",
        "writing",
        "reviewing",
        "memory",
        "past",
        "repairing",
        "repeating",
        "admitting",
        "dispatch",
        "closing",
        "growing",
        "analysing",
        "judging",
        "summarising",
        "compacting",
        "reporting",
        "integrity",
        "launching",
        "model_access",
        "walltime",
        "budget",
        "sighting",
        "progress",
        "lease",
        "stopping",
        "steering",
        "steered",
        "steering_files",
        "opening",
        "ending",
        "driver_job",
        "fleet",
        "batch_client",
        "model_job",
    },
    {"serving", "agents", "selection", "analysis", "twin"},
    {"proposals", "worker", "domains"},
    {"admission", "training", "evaluation"},
    {"jail", "models"},
    {"protocols", "errors", "config", "paths", "settings", "clean_text", "contract", "syntax"},
]
MAY_IMPORT_TORCH = (
    "kernels",
    "arch_search/models",
    "arch_search/training",
    "arch_search/evaluation",
    "arch_search/domains",
)
HOLD_TORCH = ("models", "training", "evaluation", "worker", "admission", "kernels")
# the conversion is a script for the Python of vLLM's environment, never imported by ours
TORCH_FILES = {"arch_search/worker/child.py", "arch_search/serving/convert_gguf.py"}
OF_THE_DRIVER = ("static", "runner", "__main__", "__init__")
TORCH_FREE = {"arch_search/training/data.py"}
DOORS = {
    "submitit": "slurm",
    "h5py": "cognition_db/experience",
    "openai": "arch_search/agents",
    "lm_eval": "arch_search/evaluation",
    "triton": "kernels",
    "hydra": "arch_search/settings.py",
    "vllm": "nowhere",
}


def _sources(*rooms: str) -> list[Path]:
    files = [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]
    return [file for file in files if "fla_stand_in" not in file.parts]


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def _layer(room: str) -> int | None:
    return next((depth for depth, rooms in enumerate(LAYERS) if room in rooms), None)


@pytest.mark.parametrize("room", GROUND)
def test_ground_floor_imports_nothing_else_of_the_project(room: str) -> None:
    others = {"arch_search", "hydra_conf", *GROUND} - {room}
    for file in _sources(room):
        assert not {name for name in _imports(file) if name.split(".")[0] in others}, file


def test_arch_search_imports_only_downwards() -> None:
    wrong = []
    for file in _sources("arch_search"):
        room = file.relative_to(ROOT / "arch_search").parts[0].removesuffix(".py")
        own = _layer(room)
        if room == "__init__":
            continue
        assert own is not None, f"{file}: room {room!r} is not in the table"
        for name in _imports(file):
            if name.startswith("arch_search.") and _room(name) != room:
                below = _layer(_room(name))
                if below is None or below < own or (below == own and own not in (0, 1, 2, 3, 6)):
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_torch_stays_in_its_rooms() -> None:
    wrong = []
    for file in _sources("arch_search", *GROUND, "hydra_conf"):
        path = str(file.relative_to(ROOT))
        allowed = (path.startswith(MAY_IMPORT_TORCH) or path in TORCH_FILES) and path not in TORCH_FREE
        in_child = path.startswith("arch_search/admission/") and file.stem not in OF_THE_DRIVER
        allowed = allowed or in_child
        if not allowed and any(name.split(".")[0] == "torch" for name in _imports(file)):
            wrong.append(path)
    assert not wrong, wrong


def test_packages_that_hold_torch_code_have_an_empty_init() -> None:
    for file in _sources("arch_search", "kernels"):
        if file.name == "__init__.py" and file.parent.name in HOLD_TORCH:
            tree = ast.parse(file.read_text())
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body), file


@pytest.mark.parametrize("library", sorted(DOORS))
def test_every_library_has_one_door(library: str) -> None:
    for file in _sources("arch_search", *GROUND, "hydra_conf"):
        path = str(file.relative_to(ROOT))
        if any(name.split(".")[0] == library for name in _imports(file)):
            assert path.startswith(DOORS[library]), f"{path} imports {library}"


def test_the_table_itself_rejects_an_upward_import(tmp_path: Path) -> None:
    offender = tmp_path / "offender.py"
    offender.write_text("from arch_search.cli import main\nimport torch\n")
    assert {"arch_search.cli", "torch"} <= _imports(offender)
    own, below = _layer("jail"), _layer(_room("arch_search.cli"))
    assert own is not None
    assert below is not None
    assert below < own
