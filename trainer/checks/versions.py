"""Python, packages, settings of Keras: checked without TensorFlow, which may lack."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from trainer.checks.table import Table, Verdict
from trainer.errors import SeamlineError

PACKAGE = "seamline"

_KERAS = {
    "backend": ("KERAS_BACKEND", "tensorflow"),
    "image_data_format": ("", "channels_last"),
}
"""By setting of Keras: the variable that decides before its file, if any; and the one
value that works here."""


def check_versions(table: Table) -> None:
    """Python and all packages are those that this release asks for."""
    try:
        metadata = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        why = f"{PACKAGE} is not installed, so nothing says what it needs"
        table.add("versions", Verdict.UNCHECKED, f"{why}; pip install -e .")
        return
    needed = map(Requirement, metadata.get_all("Requires-Dist") or [])
    wrong = [text for package in needed if (text := _unmet(package))]
    python = SpecifierSet(",".join(metadata.get_all("Requires-Python") or []))
    if not python.contains(platform.python_version(), prereleases=True):
        wrong.append(f"Python {platform.python_version()} is not {python}")
    if wrong:
        text = f"{'; '.join(wrong)}; install what is asked for"
        table.add("versions", Verdict.FAIL, text)
        return
    told = [f"Python {platform.python_version()}"]
    for name in ("tensorflow", "keras", "numpy"):
        told.append(f"{name} {importlib.metadata.version(name)}")
    table.add("versions", Verdict.OK, ", ".join(told))


def _unmet(needed: Requirement) -> str:
    """What is wrong with an installed package, "" if nothing is."""
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed} is not installed"
    if needed.specifier.contains(version, prereleases=True):
        return ""
    return f"{needed.name} {version} is not {needed.specifier}"


def check_keras(table: Table) -> None:
    """Keras computes with TensorFlow, in the layout that the model is built for."""
    with table.checking("Keras"):
        place, settings = _keras_file()
        for name, (variable, works) in _KERAS.items():
            origin, value = f"{place}: {name}", settings.get(name, works)
            if os.environ.get(variable):
                origin, value = variable, os.environ[variable]
            if value != works:
                raise SeamlineError(f"{origin}={value}: only {works} works; set that")
        table.add("Keras", Verdict.OK, ", ".join(works for _, works in _KERAS.values()))


def _keras_file() -> tuple[str, dict[str, Any]]:
    """Place and content of `keras.json`, found as `keras.src.backend.config` does."""
    user = os.path.expanduser("~")
    user = user if os.access(user, os.W_OK) else "/tmp"
    home = os.environ.get("KERAS_HOME", os.path.join(user, ".keras"))
    place = os.path.expanduser(os.path.join(home, "keras.json"))
    if not os.path.exists(place):
        return place, {}
    try:
        with open(place, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError:
        # Keras reads such a file as an empty one.
        found = {}
    return place, found if isinstance(found, dict) else {}
