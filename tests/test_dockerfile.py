"""What can be told of the image without building it."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {"cpu": "docker/requirements.lock", "gpu": "docker/requirements-gpu.lock"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = (ROOT / "docker/Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (line.partition(" ")[0], line.partition(" ")[2].strip())
        for line in whole.splitlines()
        if line.strip()
    ]


def of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def locked(path: str) -> dict[str, str]:
    """Version by package name."""
    text = (ROOT / path).read_text("utf-8")
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def asked(extra: str | None = None) -> list[Requirement]:
    """The requirements that setup.py names."""
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    values = {item.arg: item.value for item in call.keywords}
    names = ast.literal_eval(values["install_requires"])
    if extra:
        names = names + ast.literal_eval(values["extras_require"])[extra]
    return [Requirement(name) for name in names]


def test_python_is_process_one_and_gets_the_signals() -> None:
    (entrypoint,), (command,) = of("ENTRYPOINT"), of("CMD")
    assert json.loads(entrypoint) == ["python", "-m"]
    (module,) = json.loads(command)
    assert importlib.util.find_spec(module) is not None


def test_the_user_is_not_root_and_comes_after_all_installs() -> None:
    names = [name for name, _ in instructions()]
    (user,) = of("USER")
    assert names.index("USER") > max(i for i, n in enumerate(names) if n == "RUN")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_manifest_runs_as_the_user_of_the_image() -> None:
    job = yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))
    context = job["spec"]["template"]["spec"]["securityContext"]
    assert of("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def test_output_is_unbuffered() -> None:
    assert any("PYTHONUNBUFFERED=1" in arguments for arguments in of("ENV"))


def test_dependencies_come_before_the_code_so_that_their_layer_is_kept() -> None:
    order = instructions()
    installs = [i for i, (_, text) in enumerate(order) if "--require-hashes" in text]
    copies = [i for i, (name, _) in enumerate(order) if name == "COPY"]
    assert len(installs) == 2
    assert max(installs) < min(copies)


def test_no_install_leaves_a_cache_in_the_image() -> None:
    for arguments in of("RUN"):
        if "pip install" in arguments:
            kept_outside = "--mount=type=cache,target=/root/.cache/pip" in arguments
            assert kept_outside or "--no-cache-dir" in arguments


def test_both_variants_are_stages_and_each_has_its_lock() -> None:
    (default,) = of("ARG")
    assert default == "VARIANT=gpu"
    bases = of("FROM")
    assert bases[-1] == "${VARIANT}"
    assert re.fullmatch(r"python:3\.11-slim-\w+ AS base", bases[0])
    for variant, lock in LOCKS.items():
        assert f"base AS {variant}" in bases
        assert any(f"source={lock}," in arguments for arguments in of("RUN"))


def test_dockerignore_lets_in_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = [name for line in of("COPY") for name in line.split()[:-1]]
    for name in [*sources, *LOCKS.values()]:
        assert any(fnmatch.fnmatch(name, rule) for rule in let_in), name
    for name in (".git", "data", "records", "runs", "tests", "notebooks"):
        assert not any(fnmatch.fnmatch(name, rule) for rule in let_in), name


@pytest.mark.parametrize("variant", LOCKS)
def test_each_lock_satisfies_setup_py(variant: str) -> None:
    versions = locked(LOCKS[variant])
    for requirement in asked("gpu" if variant == "gpu" else None):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("path", LOCKS.values())
def test_each_locked_version_has_hashes_and_names_no_host(path: str) -> None:
    text = (ROOT / path).read_text("utf-8")
    body = "".join(line for line in text.splitlines(True) if line[0] != "#")
    for entry in re.split(r"\n(?=\S)", body.strip()):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+ \\\n", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]
    assert "://" not in text
    assert "--index" not in body


def test_both_variants_hold_the_same_versions_but_for_cuda() -> None:
    cpu, gpu = locked(LOCKS["cpu"]), locked(LOCKS["gpu"])
    assert cpu.items() <= gpu.items()
    assert all(name.startswith("nvidia-") for name in gpu.keys() - cpu.keys())


def test_the_code_is_installed_without_downloading_anything() -> None:
    (line,) = [text for text in of("RUN") if "--no-deps" in text]
    assert "--no-build-isolation" in line
    assert "setuptools" in locked(LOCKS["cpu"])
