"""What can be told of the image without building it."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
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
    of_code = [i for i in copies if "--from=" not in order[i][1]]
    assert max(installs) < min(of_code)


def test_no_install_leaves_a_cache_in_the_image() -> None:
    for arguments in of("RUN"):
        if "pip install" in arguments:
            kept_outside = "--mount=type=cache,target=/root/.cache/pip" in arguments
            assert kept_outside or "--no-cache-dir" in arguments


def test_both_variants_are_stages_and_each_has_its_lock() -> None:
    assert of("ARG") == ["VARIANT=gpu", 'ENCODERS=""']
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
    copied = [line for line in of("COPY") if "--from=" not in line]
    sources = [name for line in copied for name in line.split()[:-1]]
    bound = ["docker/bake_weights.py", "trainer"]
    for name in [*sources, *LOCKS.values(), *bound]:
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


# linters


def tool(name: str) -> str:
    """A program of the test requirements."""
    found = Path(sys.executable).with_name(name)
    path = str(found) if found.exists() else shutil.which(name)
    assert path, f"{name} is missing: pip install -e '.[test]'"
    return path


def lint(name: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [tool(name), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = lint("hadolint", ROOT / "docker/Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_a_planted_fault(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    text = (ROOT / "docker/Dockerfile").read_text("utf-8")
    path.write_text(text.replace("python:3.11-slim-bookworm", "python:latest"))
    done = lint("hadolint", path)
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@pytest.mark.parametrize("path", ["docker/build.sh", ".ci/run"])
def test_shellcheck_finds_nothing_in_the_scripts(path: str) -> None:
    done = lint("shellcheck", ROOT / path)
    assert (done.returncode, done.stdout) == (0, "")


# docker/build.sh, with a docker that writes down what it is asked

FAKE = """#!/bin/bash
echo "$*" >> "$CALLS"
case "$1 $2" in
  "run --rm") exit "$TRIAL" ;;
  "run --detach") echo 0123abcd ;;
  "logs --follow") echo "12:00:00 $SAID" ;;
  "wait "*) echo "$ENDED" ;;
  "inspect "*) echo -e "$DIGESTS" ;;
esac
"""


def build(
    folder: Path, *arguments: str, **answers: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs the script; returns also what it asked of docker."""
    program = folder / "bin/docker"
    program.parent.mkdir()
    program.write_text(FAKE, "utf-8")
    program.chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    good = {"TRIAL": "0", "SAID": "Compiling the training step", "ENDED": "143"}
    good["DIGESTS"] = "registry.example/seamline@sha256:12ab"
    environment = {**os.environ, **good, **answers, "CALLS": str(calls)}
    environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / "docker/build.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, calls.read_text("utf-8").splitlines()


def test_the_script_builds_tries_out_pushes_and_prints_the_digest(
    tmp_path: Path,
) -> None:
    image = "registry.example/seamline:1"
    done, calls = build(tmp_path, image, "cpu", "densenet121", "mobilenetv2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "registry.example/seamline@sha256:12ab\n"
    verbs = [call.split()[0] for call in calls]
    assert verbs == "build run run logs stop wait push inspect rm".split()
    assert "--build-arg VARIANT=cpu" in calls[0]
    assert "--build-arg ENCODERS=densenet121 mobilenetv2 ." in calls[0]
    for call in calls[1:3]:
        for wanted in (
            *("--read-only", "--user 10001:10001", "--cap-drop ALL"),
            *("--network none", f"{image} trainer.task"),
        ):
            assert wanted in call


@pytest.mark.parametrize(
    ("image", "printed"),
    [
        ("localhost:5000/seamline:1", "localhost:5000/seamline@sha256:22"),
        ("localhost:5000/seamline", "localhost:5000/seamline@sha256:22"),
        ("docker.io/ada/seamline:1", "ada/seamline@sha256:33"),
    ],
)
def test_an_image_that_lies_in_other_places_too_is_named_by_the_one_asked_for(
    tmp_path: Path, image: str, printed: str
) -> None:
    places = ("old.localhost:5000/seamline@sha256:11", "localhost:5000/seamline@sha256")
    digests = rf"{places[0]}\n{places[1]}:22\nada/seamline@sha256:33"
    done, _ = build(tmp_path, image, "cpu", DIGESTS=digests)
    assert (done.returncode, done.stdout) == (0, f"{printed}\n"), done.stderr


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"TRIAL": "1"}, "Trying out: a training of two steps"),
        ({"SAID": "error: no"}, "ended before it trained"),
        ({"ENDED": "137"}, "ended with 137 at SIGTERM, not with 143"),
    ],
)
def test_an_image_that_fails_the_trial_is_not_pushed(
    tmp_path: Path, answers: dict[str, str], message: str
) -> None:
    done, calls = build(tmp_path, "registry.example/seamline:1", **answers)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stdout == ""
    assert not [call for call in calls if call.startswith("push")]


def test_an_unknown_variant_builds_nothing(tmp_path: Path) -> None:
    done, calls = build(tmp_path, "registry.example/seamline:1", "tpu")
    assert (done.returncode, calls) == (2, [])
    assert "tpu: choose gpu or cpu" in done.stderr


def bound(folder: Path) -> Path:
    """What the stage that bakes weights sees of the repository, and nothing more."""
    (run,) = [text for text in of("RUN") if "bake_weights" in text]
    for source, target in re.findall(r"source=([\w./]+),target=/([\w./]+)", run):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / target)
    return folder


def test_weights_are_baked_with_what_the_image_binds(tmp_path: Path) -> None:
    root = bound(tmp_path / "root")
    # Where this repository is installed, it would be found in place of what is missing.
    registry = (root / "trainer/model/registry.py").read_text("utf-8")
    assert "keras" in (needs := re.findall(r"^(?:import|from) (\w+)", registry, re.M))
    assert "trainer" not in needs
    command = [sys.executable, str(root / "bake_weights.py"), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "mobilenetv9"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "error: mobilenetv9: choose from densenet121, " in done.stderr


def test_baked_weights_are_a_file_that_the_trainer_takes(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'docker'); import bake_weights;"
        f"bake_weights.bake({str(tmp_path)!r}, ['mobilenetv2'], weights=None);"
        "from trainer.model import encoders;"
        f"path = {str(tmp_path / 'mobilenetv2.weights.h5')!r};"
        "built = [encoders.build_encoder('mobilenetv2', image_size=64, weights=x)"
        " for x in (path, 'imagenet')];"
        "import numpy as np;"
        "pairs = zip(*(x.get_weights() for x in built));"
        "assert all(np.array_equal(x, y) for x, y in pairs);"
        "assert encoders.resolve_weights('mobilenetv2', 'imagenet', image_size=64)"
        " == 'imagenet'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            # As the image has it; nothing is in Keras's cache, and no network.
            **{"SEAMLINE_WEIGHTS": str(tmp_path), "KERAS_HOME": str(tmp_path)},
            "https_proxy": "http://localhost:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    assert "ENV SEAMLINE_WEIGHTS=/opt/weights\n" in dockerfile
    assert "COPY --from=weights /opt/weights /opt/weights" in dockerfile
