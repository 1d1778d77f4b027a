"""Data flows one way: a module imports only from rooms above its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trainer"
GROUND = {
    *(
        "errors",
        "storage",
        "labels",
        "progress",
        "recipes",
        "recipe_checks",
        "layout",
        "machine",
        "limits",
        "endings",
        "annotations",
        "label_groups",
        "quiet",
        "provenance",
    )
}
COMMANDS = {
    *("task", "convert", "evaluate", "predict", "preflight", "benchmark", "launch"),
    *("preview", "report", "export"),
}
ALLOWED = {
    "ground": {"ground"},
    "data": {"ground", "data"},
    "model": {"ground", "model"},
    "engine": {"ground", "data", "model", "engine"},
    "results": {"ground", "data", "model", "engine", "results"},
    "dataset": {"ground", "data", "results"},
    "scoring": {"ground", "data", "model", "engine", "results", "dataset"},
    "pipeline": {
        *("ground", "data", "model", "engine", "results", "dataset", "scoring")
    },
    # The rooms behind, for programs that are not commands.
    "library": {
        *("ground", "data", "model", "engine", "results", "dataset", "scoring"),
        "pipeline",
    },
    "package": {"ground", "library"},
    "inspection": {"ground", "data", "engine", "results", "dataset"},
    "benchmarks": {
        *("ground", "data", "model", "engine", "results", "dataset", "pipeline"),
        "benchmarks",
    },
    "checks": {
        *("ground", "data", "model", "engine", "results", "dataset", "pipeline"),
        "checks",
    },
    "flags": {"ground", "flags"},
    "jobs": {"ground", "jobs"},
    "command": {
        *("ground", "data", "model", "engine", "results", "dataset", "pipeline"),
        *("inspection", "benchmarks", "checks", "flags", "jobs", "scoring"),
    },
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(name: str) -> str:
    """The room of a dotted name below `trainer`."""
    first = name.split(".")[0]
    if first in GROUND:
        return "ground"
    if first == "training_flags":
        return "flags"
    if first == "pictures":
        return "library"
    return "command" if first in COMMANDS else first


def imports(source: str) -> set[str]:
    """Dotted names below `trainer` that a source text imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {x[len("trainer.") :] for x in names if x.startswith("trainer.")}
    return {name for name in found if name != "__version__"}


def trespasses(own: str, source: str) -> list[str]:
    allowed = ALLOWED[room(own)]
    return [name for name in sorted(imports(source)) if room(name) not in allowed]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rooms_above_its_own(path: Path) -> None:
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if own == "__init__":
        own = "package"
    assert trespasses(own, path.read_text()) == []


@pytest.mark.parametrize(
    ("own", "source"),
    [
        ("data.inputs", "from trainer.model import unet"),
        ("model.unet", "def f():\n    import trainer.data.card"),
        ("engine.loop", "from trainer.results.report import render_report"),
        ("storage", "from trainer.data import card"),
        ("pipeline", "from trainer import task"),
        ("results.report", "from trainer import flags"),
        ("pipeline", "from trainer.library import build_model"),
        ("package", "from trainer import pipeline"),
    ],
)
def test_a_planted_trespass_is_seen(own: str, source: str) -> None:
    assert len(trespasses(own, source)) == 1


def reads_flags(source: str) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.split(".")[0] == "absl"
        and any(alias.name in ("flags", "app") for alias in node.names)
        for node in ast.walk(ast.parse(source))
    )


def test_absl_flags_are_read_by_commands_and_their_shared_flags_alone() -> None:
    readers = {p.stem for p in modules() if reads_flags(p.read_text())}
    assert readers <= COMMANDS | {"flags", "training_flags"}
    assert readers >= {"task", "convert", "evaluate", "predict", "flags"}


WITHOUT_TENSORFLOW = [
    *("flags.py", "recipes.py", "labels.py", "launch.py", "layout.py", "machine.py"),
    *("endings.py", "training_flags.py", "preflight.py", "report.py"),
    *("recipe_checks.py", "checks/table.py", "checks/versions.py"),
    *(f"storage/{x}.py" for x in ("__init__", "buckets", "disk", "tf_files")),
    *(f"jobs/{path.name}" for path in sorted((PACKAGE / "jobs").glob("*.py"))),
]


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_the_ground_floor_does_not_need_tensorflow(name: str) -> None:
    source = (PACKAGE / name).read_text()
    top = [
        x for x in ast.parse(source).body if isinstance(x, ast.Import | ast.ImportFrom)
    ]
    names = {getattr(x, "module", None) or x.names[0].name for x in top}
    assert not any(x.split(".")[0] in ("tensorflow", "keras") for x in names)


def test_workers_of_a_conversion_do_not_import_tensorflow() -> None:
    """Each would take seconds and hundreds of megabytes more."""
    code = (
        "import sys, trainer.data.encoding, trainer.benchmarks.floor;"
        "print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False False\n"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_fit_on_a_screen_and_files_are_read_in_a_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, node.name
