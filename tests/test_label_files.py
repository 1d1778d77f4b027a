import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from trainer.data import folders, label_files
from trainer.data.pairs import Labels
from trainer.errors import SeamlineError
from trainer.layout import Layout

CAT_AND_DOG = (("background", "cat", "dog"), (0, 1, 2))


def layout(names: Path, **values: Any) -> Layout:
    return Layout(
        images_dir="images", masks_dir="masks", label_names=str(names), **values
    )


def read(
    folder: Path, content: str | bytes, name: str = "names.txt", **values: Any
) -> Labels:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return label_files.read_labels(layout(path, **values))


@pytest.mark.parametrize(
    "text",
    [
        "background\ncat\ndog\n",
        "background\ncat\ndog",
        "# pets\n\nbackground\n  cat \n\n# and\ndog\n\n",
        "\ufeffbackground\r\ncat\r\ndog\r\n",
        "background\rcat\rdog\r",
        "0 background\n1 cat\n2 dog\n",
        "0\tbackground\n1,cat\n2 : dog\n",
        "0=background\n1 = cat\n002 dog\n",
    ],
)
def test_names_are_one_a_line_with_or_without_ids(tmp_path: Path, text: str) -> None:
    labels = read(tmp_path, text)
    assert (labels.names, labels.ids) == CAT_AND_DOG
    assert (labels.ignore, labels.origin) == ((255,), "names.txt")


@pytest.mark.parametrize(
    "content",
    [
        ["background", "cat", "dog"],
        {"0": "background", "1": "cat", "2": "dog"},
        {"background": 0, "cat": 1, "dog": 2},
    ],
)
def test_names_come_from_json_too(tmp_path: Path, content: Any) -> None:
    labels = read(tmp_path, json.dumps(content), "names.JSON")
    assert (labels.names, labels.ids) == CAT_AND_DOG


def test_names_come_from_a_label_list_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    names = np.array(["background", "cat", "dog"], object)
    scipy.io.savemat(buffer, {"label_list": names}, do_compression=True)
    labels = read(tmp_path, buffer.getvalue(), "names.mat")
    assert (labels.names, labels.ids) == CAT_AND_DOG


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "2 background\n1 pet\n3 the border\n"),
        ("a.json", '{"2": "background", "1": "pet", "3": "the border"}'),
        ("a.json", '{"background": 2, "pet": 1, "the border": 3}'),
    ],
)
def test_the_order_in_the_file_is_the_order_of_the_labels(
    tmp_path: Path, name: str, text: str
) -> None:
    labels = read(tmp_path, text, name)
    assert labels.names == ("background", "pet", "the border")
    assert labels.ids == (2, 1, 3)
    assert labels.table == {255: 255, 2: 0, 1: 1, 3: 2}


def test_the_layout_says_what_is_ignored_and_where_masks_lie(tmp_path: Path) -> None:
    labels = read(tmp_path, "7 a\n8 b\n", ignore_ids=(0, 1), mask_variable="gt")
    assert (labels.ignore, labels.variable) == ((0, 1), "gt")


MANY = "".join(f"c{number}\n" for number in range(255))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "cat\ndog\ncat\n", r"txt line 3: the name 'cat' comes twice, .* 2"),
        ("a.txt", "1 cat\n\n1 dog", r"a\.txt line 3: id 1 \('dog'\) is .* 'cat' too"),
        ("a.txt", "-1 void\n1 cat", r"a\.txt line 1: id -1 \('void'\) is negative"),
        ("a.txt", "0 a\n255 void\n1 b", r"txt line 2: id 255 .* is in --ignore_ids"),
        ("a.txt", "0 a\ncat\n1 b", r"a\.txt line 2: 'cat' has no id, but other lines"),
        ("a.txt", "id,name\n0,a\n1,b", r"a\.txt line 1: 'id,name' has no id"),
        ("a.txt", "only\n", r"a\.txt: 1 names; give 2 to 254"),
        ("a.txt", "", r"a\.txt: 0 names; give 2 to 254"),
        ("a.txt", "# nothing\n\n", r"a\.txt: 0 names; give 2 to 254"),
        ("a.txt", MANY, r"a\.txt: 255 names; give 2 to 254"),
        ("a.txt", b"cat\ndog\xff\n", r"a\.txt line 2: not UTF-8 text"),
        ("a.txt", "cat\ndog".encode("utf-16"), r"a\.txt line 1: not UTF-8 text"),
        ("a.txt", "cat\ndo\0g\n", r"a\.txt line 2: .*do\\x00g.* is no name"),
        ("a.json", "", r"a\.json: not JSON"),
        ("a.json", '["cat", "dog"', r"a\.json: not JSON"),
        ("a.json", "[" * 100_000, r"a\.json: not JSON"),
        ("a.json", "[" + "9" * 5000 + "]", r"a\.json: not JSON"),
        ("a.json", b'["cat", "d\xff"]', r"a\.json line 1: not UTF-8 text"),
        ("a.json", "7", r"a\.json: 0 names"),
        ("a.json", '["cat", 7]', r"a\.json: 1: 7 is no id with a name"),
        ("a.json", '["cat", ""]', r"a\.json: '' is no name"),
        ("a.json", '["cat", "\\ud800"]', r"a\.json: .*ud800.* is no name"),
        ("a.json", '["cat", "cat"]', r"a\.json: the name 'cat' comes twice"),
        ("a.json", '{"0": "cat", "0": "dog"}', r"a\.json: id 0 \('dog'\) is the id of"),
        ("a.json", '{"cat": 1, "dog": 1}', r"a\.json: id 1 \('dog'\) is the id of"),
        ("a.json", '{"cat": 1, "dog": "2"}', r'a\.json: "cat": 1 is no id with a name'),
        ("a.json", '{"cat": 1, "dog": true}', r'a\.json: "cat": 1 is no id'),
        ("a.json", '{"cat": {"id": 1}}', r'a\.json: "cat": .* is no id with a name'),
        ("a.mat", b"hello" * 40, r"a\.mat: no readable label list"),
    ],
)
def test_a_list_that_says_nothing_clear_is_refused(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    with pytest.raises(SeamlineError, match=problem) as refusal:
        read(tmp_path, content, name)
    assert "\n" not in str(refusal.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeamlineError, match=r"none\.txt: cannot be read \(No such"):
        label_files.read_labels(layout(tmp_path / "none.txt"))


# Lists of ids

FOUND = folders.Pairs(
    folder="/data",
    files={x: (f"{x}_photo.jpg", f"{x}_mask.png") for x in ("a b", "city/c", "d", "e")},
    infos={},
    orphans=("lost.png",),
    photos=("a b", "city/c", "d", "e", "alone"),
    masks=("a b", "city/c", "d", "e", "lost"),
)


def split(
    folder: Path, train: str | None = None, val: str | None = None
) -> tuple[list[str], list[str]] | None:
    paths: list[str | None] = []
    for name, text in (("train.txt", train), ("val.txt", val)):
        if text is not None:
            (folder / name).write_text(text)
        paths.append(None if text is None else str(folder / name))
    suffixes = {"image_suffix": "_photo", "mask_suffix": "_mask"}
    ids = {"train_ids": paths[0], "val_ids": paths[1]}
    return label_files.read_split(layout(Path("x"), **suffixes, **ids), FOUND)


def test_without_lists_there_is_no_split(tmp_path: Path) -> None:
    assert split(tmp_path) is None


def test_both_lists_are_taken_at_their_word(tmp_path: Path) -> None:
    assert split(tmp_path, "e\nd\n", "city/c\n") == (["d", "e"], ["city/c"])


@pytest.mark.parametrize("side", ["train", "val"])
def test_with_one_list_the_rest_is_the_other_side(tmp_path: Path, side: str) -> None:
    listed, rest = ["d", "e"], ["a b", "city/c"]
    expected = (listed, rest) if side == "train" else (rest, listed)
    assert split(tmp_path, **{side: "d\ne\n"}) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("city/c", "./city/c", "city/c.jpg", "city/c_photo.jpg", "city/c_photo.PNG"),
        *(
            "city/c_mask.png",
            "city/c_photo",
            "  city/c  ",
            "# c\n\ncity/c\n",
            "city/c\r",
        ),
    ],
)
def test_ids_may_be_written_as_files_are(tmp_path: Path, name: str) -> None:
    both = split(tmp_path, val=f"{name}\n")
    assert both is not None
    assert both[1] == ["city/c"]


def test_an_id_may_hold_a_space(tmp_path: Path) -> None:
    assert split(tmp_path, "a b\n", "d") == (["a b"], ["d"])


@pytest.mark.parametrize(
    ("train", "val", "problem"),
    [
        ("d\n\nnope\n", None, r"train\.txt line 3: 'nope' is no photo .* 'a b'$"),
        ("alone\n", None, r"train\.txt line 1: 'alone' has no mask in masks"),
        (None, "lost\n", r"val\.txt line 1: 'lost' has no photo in images"),
        ("d 1 1 2\n", None, r"train\.txt line 1: 'd 1 1 2' has 4 columns"),
        ("d\ne\nd_photo.jpg", None, r"train\.txt line 3: 'd' is in line 1 too"),
        ("d\ne\n", "city/c\ne\n", r"val\.txt line 2: 'e' is in .*n\.txt line 2 too"),
        ("", "d", r"train\.txt: lists no ids"),
        ("d", "# none\n", r"val\.txt: lists no ids"),
        ("a b\ncity/c\nd\ne\n", None, r"train\.txt: lists all 4 pairs"),
        (None, "a b\ncity/c\nd\ne\n", r"val\.txt: lists all 4 pairs"),
    ],
)
def test_a_list_of_ids_with_a_mistake_is_refused(
    tmp_path: Path, train: str | None, val: str | None, problem: str
) -> None:
    with pytest.raises(SeamlineError, match=problem) as refusal:
        split(tmp_path, train, val)
    assert "\n" not in str(refusal.value)


def test_lists_of_ids_must_be_text_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_bytes(b"d\n\xff\xfe\n")
    for name, problem in (("odd", "line 2: not UTF-8"), ("none", "cannot be read")):
        ids = layout(Path("x"), val_ids=str(tmp_path / f"{name}.txt"))
        with pytest.raises(SeamlineError, match=rf"{name}\.txt:? {problem}"):
            label_files.read_split(ids, FOUND)
