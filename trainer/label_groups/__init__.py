"""Classes merged into groups by name, for scores and for training. No TensorFlow here.

A file of groups is JSON: `{"shoes": ["boots", "flats"], …}`, each group with the names
of its classes. The order of the groups is that of their labels, and the first one holds
the background. Every class of the records is in exactly one group, or listed under
"ignore": its pixels count nowhere. A text under "about" is for readers alone.

`ccp9` and `ccp14` are files beside this module; "about" says where they come from.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.errors import SeamlineError
from trainer.labels import IGNORE_LABEL

SHIPPED = tuple(sorted(x.stem for x in Path(__file__).parent.glob("*.json")))
"""Groups that come with the package, by name."""

_IGNORE, _ABOUT = "ignore", "about"
_NAMED = 5
"""So many classes are named where more are missing."""
_FORM = 'give {"group": ["class", …], …}'


@dataclasses.dataclass(frozen=True)
class LabelGroups:
    """Groups of the classes of some records.

    Attributes:
      members: by name of the group, the names of its classes; in order of label.
      ignored: classes that are in no group.
      label_names: all C classes of the records, in order of label.
    """

    members: dict[str, list[str]]
    ignored: list[str]
    label_names: list[str]

    @property
    def names(self) -> list[str]:
        """Of the G groups, in order of label."""
        return list(self.members)

    @property
    def table(self) -> np.ndarray:
        """Label of a class -> label of its group: uint8 `[256]`.

        `IGNORE_LABEL` for ignored classes, and for what is no label.
        """
        table = np.full(256, IGNORE_LABEL, np.uint8)
        for group, names in enumerate(self.members.values()):
            table[[self.label_names.index(name) for name in names]] = group
        return table

    @property
    def digest(self) -> str:
        """A short text that differs where groups, their order or members differ."""
        content = json.dumps([list(self.members.items()), self.ignored])
        short = hashlib.sha256(content.encode()).hexdigest()[:8]
        return f"{len(self.members)} groups {short}"

    def to_dict(self) -> dict[str, list[str]]:
        """What a file of these groups holds."""
        rest = {_IGNORE: self.ignored} if self.ignored else {}
        return {**self.members, **rest}

    def coarsen(self, finer: LabelGroups, where: str) -> np.ndarray:
        """What each group of `finer` counts as here: uint8 labels `[groups]`.

        Args:
          finer: other groups of the same classes.
          where: how these groups were given, for the error.

        Raises:
          SeamlineError: a group of `finer` is cut in two.
        """
        table = self.table
        labels = np.empty(len(finer.members), np.uint8)
        for group, (name, members) in enumerate(finer.members.items()):
            of_member = [int(table[self.label_names.index(x)]) for x in members]
            labels[group] = of_member[0]
            for member, label in zip(members, of_member, strict=True):
                if label != of_member[0]:
                    raise SeamlineError(
                        f"--label_groups={where}: puts '{members[0]}' and '{member}' "
                        f"apart, but the model was trained on both as '{name}'; give "
                        "groups that keep them together"
                    )
        return labels


def read(where: str, label_names: Sequence[str]) -> LabelGroups:
    """Reads groups and checks them against the classes of records.

    Args:
      where: a name of `SHIPPED`, or a JSON file, local or remote.
      label_names: the classes, the background first.

    Raises:
      SeamlineError: no such file, or groups that do not fit the classes; names the
        class.
    """
    path = where
    if where in SHIPPED:
        path = str(Path(__file__).with_name(f"{where}.json"))
    elif not storage.exists(where):
        raise SeamlineError(
            f"--label_groups={where}: no such file; give a JSON file, or one of "
            f"{', '.join(SHIPPED)}"
        )
    try:
        pairs = json.loads(storage.read_text(path), object_pairs_hook=list)
    except ValueError as error:
        raise SeamlineError(
            f"--label_groups={where}: not JSON ({error}); {_FORM}"
        ) from error
    return _checked(pairs, label_names, where)


def read_if_given(where: str | None, label_names: Sequence[str]) -> LabelGroups | None:
    """`read`, or None for None."""
    return None if where is None else read(where, label_names)


def from_dict(
    content: dict[str, list[str]], label_names: Sequence[str], where: str
) -> LabelGroups:
    """Groups as `LabelGroups.to_dict` gives them.

    Args:
      content: from a run's `config.json`, say.
      label_names: the classes, the background first.
      where: `content` was found, for the error.

    Raises:
      SeamlineError: they do not fit the classes.
    """
    return _checked(list(content.items()), label_names, where)


def _checked(pairs: Any, label_names: Sequence[str], where: str) -> LabelGroups:
    """Groups from (name, classes) pairs, if they fit.

    Raises:
      SeamlineError: says what does not.
    """
    if problem := _malformed(pairs) or _misfit(_groups_of(pairs), label_names):
        raise SeamlineError(f"--label_groups={where}: {problem}")
    groups = _groups_of(pairs)
    ignored = groups.pop(_IGNORE, [])
    return LabelGroups(groups, ignored, list(label_names))


def _groups_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, list[str]]:
    return {name: list(names) for name, names in pairs if not isinstance(names, str)}


def _malformed(pairs: Any) -> str | None:
    """What keeps (name, classes) pairs from being groups of any classes."""
    # What was no JSON object is no list of pairs.
    if not isinstance(pairs, list) or not all(isinstance(x, tuple) for x in pairs):
        return f"holds no groups; {_FORM}"
    seen: set[str] = set()
    for name, names in pairs:
        if name in seen:
            return f"group '{name}' is there twice; join the two"
        seen.add(name)
        if name == _ABOUT and isinstance(names, str):
            continue
        if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
            return f"group '{name}' is no list of class names; {_FORM}"
        if not names and name != _IGNORE:
            return f"group '{name}' has no class; leave it out"
    return None


def _misfit(groups: dict[str, list[str]], label_names: Sequence[str]) -> str | None:
    """What keeps groups from holding each of these classes once."""
    place: dict[str, str] = {}
    for group, names in groups.items():
        for name in names:
            if name not in label_names:
                close = difflib.get_close_matches(name, label_names, n=1)
                nearest = f"; the nearest is '{close[0]}'" if close else ""
                return f"'{name}' in '{group}' is no class of the records{nearest}"
            if name in place:
                return (
                    f"class '{name}' is in '{place[name]}' and again in '{group}'; "
                    "leave it in one"
                )
            place[name] = group
    if missing := [name for name in label_names if name not in place]:
        more = len(missing) - _NAMED
        told = ", ".join(f"'{name}'" for name in missing[:_NAMED])
        told += f" and {more} more" if more > 0 else ""
        return f'no group holds {told}; put each class into one, or into "{_IGNORE}"'
    kept = [name for name in groups if name != _IGNORE]
    if len(kept) < 2:
        return f"{len(kept)} group; give two at least"
    background = label_names[0]
    if place[background] not in (_IGNORE, kept[0]):
        return (
            f"'{background}', the background, is in '{place[background]}'; put that "
            "group first"
        )
    return None
