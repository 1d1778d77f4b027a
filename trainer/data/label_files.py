"""Files that name classes and files that list ids: every mistake is one line."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any, NamedTuple

from trainer import storage
from trainer.data import matfile
from trainer.data.folders import Pairs
from trainer.data.pairs import MASK_ENDINGS, PHOTO_ENDINGS, Labels
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL
from trainer.layout import Layout

_MOST_CLASSES = IGNORE_LABEL - 1
# Python refuses to read integers of thousands of digits.
_INTEGER = r"[+-]?[0-9]{1,18}"
_NUMBERED = re.compile(rf"({_INTEGER})(?:\s*[,:=]\s*|\s+)(\S.*)")


class _Class(NamedTuple):
    """One class as a file gives it; `place` is the file and, in text, the line."""

    id: int
    name: str
    place: str


def read_labels(layout: Layout) -> Labels:
    """Reads `layout.label_names`; the order in the file is the order of the labels.

    `.mat`: the variable `label_list`, a row of names in id order. `.json`: a list of
    names in id order, or an object of id to name or name to id. Anything else is text:
    one name a line in id order, or `id name` on every line; blank lines and lines that
    start with # are skipped.

    Raises:
      SeamlineError: names the file, the line or value and the fix.
    """
    path = layout.label_names
    content = _read(path, "class names")
    ending = posixpath.splitext(path)[1].lower()
    if ending == ".mat":
        classes = _from_mat(content, path)
    elif ending == ".json":
        classes = _from_json(_text(content, path), path)
    else:
        classes = _from_lines(_text(content, path), path)
    _check(classes, path, layout.ignore_ids)
    return Labels(
        names=tuple(row.name for row in classes),
        ids=tuple(row.id for row in classes),
        ignore=layout.ignore_ids,
        variable=layout.mask_variable,
        origin=posixpath.basename(path),
    )


def _from_mat(content: bytes, path: str) -> list[_Class]:
    fix = "it must hold 'label_list', a row of class names in id order"
    try:
        names = matfile.read_names(content, "label_list")
    except (ValueError, matfile.OtherKind) as error:
        raise SeamlineError(
            f"{path}: no readable label list ({error}); {fix}"
        ) from error
    if names is None:
        raise SeamlineError(f"{path}: has no variable 'label_list'; {fix}")
    return [_Class(value, name.strip(), path) for value, name in enumerate(names)]


def _from_json(text: str, path: str) -> list[_Class]:
    try:
        # Objects become tuples of pairs, so that a key that comes twice is seen.
        content = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise SeamlineError(f"{path}: not JSON ({error}); mend the file") from error
    rows: list[tuple[Any, Any]] = []
    if isinstance(content, list):
        rows = list(enumerate(content))
    elif isinstance(content, tuple):
        by_name = all(type(value) is int for _, value in content)
        rows = [(value, key) if by_name else (key, value) for key, value in content]
    classes = []
    for value, name in rows:
        numbered = re.fullmatch(_INTEGER, str(value).strip())
        if not isinstance(name, str) or not numbered:
            raise SeamlineError(
                f"{path}: {_cut(json.dumps(value))}: {_cut(json.dumps(name))} is no id "
                "with a name; give a list of names, or an object of id to name"
            )
        classes.append(_Class(int(value), name.strip(), path))
    return classes


def _from_lines(text: str, path: str) -> list[_Class]:
    lines = _lines(text)
    numbered = [_NUMBERED.fullmatch(line) for _, line in lines]
    classes = []
    for value, ((number, line), match) in enumerate(zip(lines, numbered, strict=True)):
        place = f"{path} line {number}"
        if match is not None:
            classes.append(_Class(int(match[1]), match[2], place))
        elif any(numbered):
            raise SeamlineError(
                f"{place}: '{_cut(line)}' has no id, but other lines have; write 'id "
                "name' on every line, or names alone (JSON takes any name)"
            )
        else:
            classes.append(_Class(value, line, place))
    return classes


def _check(classes: list[_Class], path: str, ignored: tuple[int, ...]) -> None:
    ids: dict[int, _Class] = {}
    names: dict[str, _Class] = {}
    for row in classes:
        shown = _cut(row.name)
        if not row.name or not row.name.isprintable():
            raise SeamlineError(
                f"{row.place}: {_cut(ascii(row.name))} is no name; write printable text"
            )
        if row.id < 0:
            raise SeamlineError(
                f"{row.place}: id {row.id} ('{shown}') is negative; leave the class "
                f"out and give --ignore_ids={row.id}"
            )
        if row.id in ids:
            raise SeamlineError(
                f"{row.place}: id {row.id} ('{shown}') is the id of "
                f"'{_cut(ids[row.id].name)}' too; give each class its own"
            )
        if row.name in names:
            raise SeamlineError(
                f"{row.place}: the name '{shown}' comes twice, for the ids "
                f"{names[row.name].id} and {row.id}; give each class its own"
            )
        if row.id in ignored:
            raise SeamlineError(
                f"{row.place}: id {row.id} ('{shown}') is in --ignore_ids too; take it "
                "out of one of them (lines of 'id name' may skip ids)"
            )
        ids[row.id] = names[row.name] = row
    if not 2 <= len(classes) <= _MOST_CLASSES:
        raise SeamlineError(f"{path}: {len(classes)} names; give 2 to {_MOST_CLASSES}")


def read_split(layout: Layout, found: Pairs) -> tuple[list[str], list[str]] | None:
    """Reads `layout.train_ids` and `layout.val_ids`; None without either.

    Lists have one id a line, as it is or with suffix and ending; blank lines and lines
    that start with # are skipped. With one list, the other side is the rest.

    Args:
      layout: names the files.
      found: the pairs there are.

    Returns:
      (train, val), each sorted.

    Raises:
      SeamlineError: names the file, the line, the id and the fix.
    """
    if layout.train_ids is None and layout.val_ids is None:
        return None
    known = {*found.files}
    train, val = (
        {} if path is None else _read_ids(path, layout, found)
        for path in (layout.train_ids, layout.val_ids)
    )
    for image_id, number in val.items():
        if image_id in train:
            raise SeamlineError(
                f"{layout.val_ids} line {number}: '{image_id}' is in "
                f"{layout.train_ids} line {train[image_id]} too; remove one"
            )
    if {*train} == known or {*val} == known:
        raise SeamlineError(
            f"{layout.train_ids if train else layout.val_ids}: lists all {len(known)} "
            "pairs, which leaves none for the other side; take some out"
        )
    return sorted(train or known - {*val}), sorted(val or known - {*train})


def _read_ids(path: str, layout: Layout, found: Pairs) -> dict[str, int]:
    """Id -> its line in the file."""
    lines: dict[str, int] = {}
    for number, line in _lines(_text(_read(path, "ids"), path)):
        place, image_id = f"{path} line {number}", line.removeprefix("./")
        if image_id not in found.files:
            image_id = _shortened(image_id, (layout.image_suffix, layout.mask_suffix))
        columns = len(line.split())
        if image_id not in found.files and columns > 1:
            raise SeamlineError(
                f"{place}: '{_cut(line)}' has {columns} columns; keep the ids alone, "
                "one a line"
            )
        if image_id not in found.files:
            raise SeamlineError(f"{place}: {_explain_unknown(image_id, layout, found)}")
        if image_id in lines:
            raise SeamlineError(
                f"{place}: '{image_id}' is in line {lines[image_id]} too; remove one"
            )
        lines[image_id] = number
    if not lines:
        raise SeamlineError(f"{path}: lists no ids; write one a line")
    return lines


def _explain_unknown(image_id: str, layout: Layout, found: Pairs) -> str:
    """What a name that is the id of no pair lacks."""
    if image_id in found.photos:
        return f"'{image_id}' has no mask in {layout.masks_dir}; take it out or add one"
    if image_id in found.masks:
        return f"'{image_id}' has no photo in {layout.images_dir}; take it out"
    return (
        f"'{_cut(image_id)}' is no photo of {layout.images_dir}; write the path below "
        f"it, such as '{next(iter(found.files))}'"
    )


def _shortened(name: str, suffixes: tuple[str, ...]) -> str:
    """A file name as lists may give it -> the id: without ending and suffix."""
    stem, ending = posixpath.splitext(name)
    stem = stem if ending.lower() in (*PHOTO_ENDINGS, *MASK_ENDINGS) else name
    for suffix in suffixes:
        if suffix and stem.endswith(suffix):
            return stem.removesuffix(suffix)
    return stem


def _read(path: str, what: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise SeamlineError(
            f"{path}: cannot be read ({error.strerror}); give a file of {what}"
        ) from error


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SeamlineError(
            f"{path} line {line}: not UTF-8 text; save the file as UTF-8"
        ) from error


def _lines(text: str) -> list[tuple[int, str]]:
    """(line number, content) of the lines that say something."""
    # Not splitlines(), which ends lines at characters that editors do not.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line and line[0] != "#"]


def _cut(text: str) -> str:
    """Text for a message, on one line and not too long."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
