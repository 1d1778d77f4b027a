"""Groups of classes: those of the package, and what a file of groups may not say."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from trainer import label_groups
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS

NAMES = ["null", "hat", "cap", "shoe", "boot", "bag"]
GOOD = {"ground": ["null"], "head": ["cap", "hat"], "feet": ["boot", "shoe", "bag"]}


def read(tmp_path: Path, content: object, names: list[str] = NAMES) -> object:
    path = tmp_path / "groups.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return label_groups.read(str(path), names)


@pytest.mark.parametrize(("name", "count"), [("ccp9", 9), ("ccp14", 14)])
def test_the_groups_of_the_package_hold_each_class_of_ccp_once(
    name: str, count: int
) -> None:
    groups = label_groups.read(name, CCP_LABELS)
    assert len(groups.names) == count
    assert groups.ignored == []
    members = [x for names in groups.members.values() for x in names]
    assert sorted(members) == sorted(CCP_LABELS)
    assert groups.members[groups.names[0]] == ["null"]
    file = ROOT / "trainer" / "label_groups" / f"{name}.json"
    about = json.loads(file.read_text())["about"]
    assert ("Our own" in about) is (name == "ccp14")
    assert ("github.com/minanasser54/clothes-segmentation" in about) is (name == "ccp9")


def test_the_fourteen_groups_divide_the_nine() -> None:
    nine, fourteen = (label_groups.read(x, CCP_LABELS) for x in ("ccp9", "ccp14"))
    labels = nine.coarsen(fourteen, "ccp9")
    assert {nine.names[x] for x in labels} == set(nine.names)
    np.testing.assert_array_equal(
        labels[fourteen.table[: len(CCP_LABELS)]], nine.table[: len(CCP_LABELS)]
    )
    with pytest.raises(SeamlineError) as caught:
        fourteen.coarsen(nine, "ccp14")
    assert str(caught.value) == (
        "--label_groups=ccp14: puts 'blazer' and 'blouse' apart, but the model was "
        "trained on both as 'upper_clothes'; give groups that keep them together"
    )


def test_a_label_becomes_that_of_its_group(tmp_path: Path) -> None:
    groups = read(tmp_path, {"about": "a test", **GOOD})
    assert groups.names == ["ground", "head", "feet"]
    np.testing.assert_array_equal(groups.table[:6], [0, 1, 1, 2, 2, 2])
    assert (groups.table[6:] == 255).all()
    assert groups.to_dict() == GOOD


def test_ignored_classes_become_the_ignore_label(tmp_path: Path) -> None:
    content = {"ignore": ["null", "bag"], "head": ["hat", "cap"], "feet": ["shoe"]}
    content["feet"].append("boot")
    groups = read(tmp_path, content)
    np.testing.assert_array_equal(groups.table[:6], [255, 0, 0, 1, 1, 255])
    assert groups.to_dict() == content
    again = label_groups.from_dict(groups.to_dict(), NAMES, "config.json")
    assert again == groups


def test_the_digest_tells_groups_apart_by_members_and_order(tmp_path: Path) -> None:
    turned = {"ground": GOOD["ground"], "feet": GOOD["feet"], "head": GOOD["head"]}
    moved = {**GOOD, "head": ["cap", "hat", "bag"], "feet": ["boot", "shoe"]}
    aside = {**GOOD, "feet": ["boot", "shoe"], "ignore": ["bag"]}
    digests = {read(tmp_path, x).digest for x in (GOOD, turned, moved, aside)}
    assert len(digests) == 4
    assert read(tmp_path, {"about": "it", **GOOD}).digest in digests
    assert all(re.fullmatch("3 groups [0-9a-f]{8}", x) for x in digests)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {**GOOD, "head": ["hat"]},
            "no group holds 'cap'; put each class into one, or into \"ignore\"",
        ),
        (
            {"ground": ["null"], "ignore": []},
            "no group holds 'hat', 'cap', 'shoe', 'boot', 'bag'; put each",
        ),
        (
            {},
            "no group holds 'null', 'hat', 'cap', 'shoe', 'boot' and 1 more; put each",
        ),
        (
            {**GOOD, "ground": ["null", "boot"]},
            "class 'boot' is in 'ground' and again in 'feet'; leave it in one",
        ),
        (
            {**GOOD, "ignore": ["hat"]},
            "class 'hat' is in 'head' and again in 'ignore'; leave it in one",
        ),
        (
            {**GOOD, "head": ["hat", "caps"]},
            "'caps' in 'head' is no class of the records; the nearest is 'cap'",
        ),
        (
            {"head": ["hat", "cap"], "ground": ["null"], "feet": GOOD["feet"]},
            "'null', the background, is in 'ground'; put that group first",
        ),
        ({"all": NAMES}, "1 group; give two at least"),
        ({**GOOD, "hands": []}, "group 'hands' has no class; leave it out"),
        ({**GOOD, "hands": "bag"}, "group 'hands' is no list of class names; give {"),
        ({**GOOD, "hands": [5]}, "group 'hands' is no list of class names; give {"),
        ({**GOOD, "about": ["x"]}, "'x' in 'about' is no class of the records"),
        ('{"a": ["null"], "a": ["hat"]}', "group 'a' is there twice; join the two"),
        (["null"], 'holds no groups; give {"group": ["class", …], …}'),
        ("5", "holds no groups; give {"),
        ("{", "not JSON (Expecting property name"),
    ],
)
def test_groups_that_do_not_fit_are_one_line_that_names_the_class(
    content: object, line: str, tmp_path: Path
) -> None:
    with pytest.raises(SeamlineError) as caught:
        read(tmp_path, content)
    told = str(caught.value)
    assert told.startswith(f"--label_groups={tmp_path}/groups.json: {line}")
    assert "\n" not in told


def test_groups_of_another_dataset_name_a_class() -> None:
    with pytest.raises(SeamlineError, match="ccp9: 'null' in 'background' is no cl"):
        label_groups.read("ccp9", ["road", "sky"])


def test_a_file_that_is_not_there_is_told_with_the_groups_that_are() -> None:
    with pytest.raises(SeamlineError) as caught:
        label_groups.read("ccp8", CCP_LABELS)
    assert str(caught.value) == (
        "--label_groups=ccp8: no such file; give a JSON file, or one of ccp14, ccp9"
    )


def test_the_groups_are_installed_with_the_package() -> None:
    calls = ast.walk(ast.parse((ROOT / "setup.py").read_text()))
    words = [word for x in calls if isinstance(x, ast.Call) for word in x.keywords]
    [data] = [ast.literal_eval(x.value) for x in words if x.arg == "package_data"]
    packed = {x for pattern in data["trainer"] for x in ROOT.glob(f"trainer/{pattern}")}
    assert len(label_groups.SHIPPED) == 2
    for name in label_groups.SHIPPED:
        assert ROOT / "trainer" / "label_groups" / f"{name}.json" in packed


DOCS = (ROOT / "docs" / "scores.md").read_text()


def test_the_documentation_lists_the_groups_of_the_package() -> None:
    for name in label_groups.SHIPPED:
        names = ", ".join(label_groups.read(name, CCP_LABELS).names)
        assert f"| `{name}` | {names} |" in DOCS


def test_the_documented_file_of_groups_can_be_read(tmp_path: Path) -> None:
    [example] = [x for x in DOCS.splitlines() if x.startswith('    {"')]
    names = ["null", "shoes", "boots", "socks", "skin"]
    groups = read(tmp_path, example, names)
    assert (groups.names, groups.ignored) == (["background", "feet"], ["skin"])
