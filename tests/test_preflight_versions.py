"""Packages and settings of Keras that a training cannot work with are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import run_command
from trainer.checks import versions
from trainer.checks.table import Row, Table, Verdict


def found_by(check: Callable[[Table], None]) -> Row:
    table = Table()
    check(table)
    [row] = table.rows
    return row


def test_versions_are_those_that_the_package_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = versions.importlib.metadata
    real = metadata.version
    sound = found_by(versions.check_versions)
    assert sound.verdict is Verdict.OK
    assert f"tensorflow {real('tensorflow')}" in sound.found
    monkeypatch.setattr(
        metadata, "version", lambda x: "2.19.1" if x == "tensorflow" else real(x)
    )
    wrong = found_by(versions.check_versions)
    assert wrong.verdict is Verdict.FAIL
    assert wrong.found == (
        "tensorflow 2.19.1 is not <2.22,>=2.20; install what is asked for"
    )
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.9.2")
    assert "Python 3.9.2 is not >=3.10" in found_by(versions.check_versions).found
    monkeypatch.setattr(versions, "PACKAGE", "no-such-package-here")
    assert found_by(versions.check_versions).verdict is Verdict.UNCHECKED


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = versions.importlib.metadata
    real = metadata.version

    def without_scipy(name: str) -> str:
        if name == "scipy":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without_scipy)
    wrong = found_by(versions.check_versions)
    assert wrong.verdict is Verdict.FAIL
    assert wrong.found.startswith("scipy<2,>=1.13 is not installed; install")


@pytest.mark.parametrize("content", ['{"epsilon": 1e-07}', "no JSON", None])
def test_keras_as_it_comes_works(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    assert found_by(versions.check_keras).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("settings", "variable", "found"),
    [
        ({"backend": "jax"}, None, "/keras.json: backend=jax: only tensorflow works"),
        ({"backend": "jax"}, "tensorflow", None),
        ({"backend": "tensorflow"}, "torch", "KERAS_BACKEND=torch: only tensorflow"),
        (
            {"image_data_format": "channels_first"},
            None,
            "/keras.json: image_data_format=channels_first: only channels_last works",
        ),
    ],
)
def test_settings_of_keras_that_cannot_work_fail(
    settings: dict[str, str],
    variable: str | None,
    found: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", variable or "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    row = found_by(versions.check_keras)
    if found is None:
        assert row.verdict is Verdict.OK
    else:
        assert row.verdict is Verdict.FAIL
        assert row.found.removeprefix(str(tmp_path)).startswith(found)


def test_without_what_all_else_needs_the_command_checks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing Keras would end in a traceback, and in a retry of the pod."""
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
    done = run_command("trainer.preflight", cwd=tmp_path, fresh=True)
    assert done.returncode == 42, done.stdout + done.stderr
    assert [x.split()[0] for x in done.stdout.splitlines()] == [
        *("check", "versions", "Keras", "verdict:"),
    ]
    assert done.stdout.endswith("verdict: will not work: Keras (exit code 42)\n")
    assert done.stderr == ""
