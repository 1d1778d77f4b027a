"""What was measured, beside what was measured before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from trainer import storage
from trainer.benchmarks.measurements import Measurement, align, number
from trainer.errors import SeamlineError
from trainer.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Measurements in a file.

    Attributes:
      path: of the file.
      values: by name.
      about: when and on what they were made.
      recipe: its values by name; {} in files of older releases.
    """

    path: str
    values: dict[str, float]
    about: str = ""
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(path: str) -> Earlier:
    """Reads what `measurements.write` wrote.

    Raises:
      SeamlineError: no such file, or another one.
    """
    try:
        content = json.loads(storage.read_text(path))
        rows, machine = content["measurements"], content["machine"]
        values = {str(row["name"]): float(row["value"]) for row in rows}
        about = f"{content['date']}, {machine['cpus']} x {machine['processor']}"
        recipe = dict(content.get("recipe", {}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SeamlineError(
            f"--compare={path}: holds no measurements ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); give a file that --json wrote"
        ) from error
    return Earlier(path, values, about, recipe)


def table(
    measured: Sequence[Measurement], earlier: Earlier, recipe: Recipe
) -> list[str]:
    """One line a measurement, the old value and new / old beside the new value.

    Before them a line says where the old ones come from, and one what was another
    recipe then; after them one says which have no new value.
    """
    rows = [("", "now", "", "before", "now/before", "")]
    for row in measured:
        before, ratio = "none", ""
        if row.name in earlier.values:
            old = earlier.values[row.name]
            before, ratio = number(old), number(row.value / old) if old else ""
        rows.append((row.name, number(row.value), row.unit, before, ratio, row.detail))
    lines = [f"Before: {earlier.path}, {earlier.about}"]
    now = dataclasses.asdict(recipe)
    changed = [
        f"{name}: {value} before, {now.get(name)} now"
        for name, value in earlier.recipe.items()
        if value != now.get(name)
    ]
    if changed:
        lines.append(f"Not alike: {'; '.join(changed)}")
    lines += align(rows, right=[1, 3, 4])
    gone = sorted(set(earlier.values) - {row.name for row in measured})
    if gone:
        lines.append(f"Only before: {', '.join(gone)}")
    return lines
