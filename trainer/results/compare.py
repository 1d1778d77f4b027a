"""Two finished runs side by side: one HTML file like the report."""

from __future__ import annotations

from typing import Any

from trainer import storage
from trainer.errors import SeamlineError
from trainer.results import gallery, lines, pages, tables
from trainer.results.finished import Run, read_run
from trainer.results.kept import Collection, Kept

_OWN = {"run_dir", "command", "date", "notices", "identity", "recipe_values"}
"""Parts of `config.json` that differ between any two runs or say things twice."""
_EACH = 4
SIDES = ("A", "B")


def compare_runs(run_dirs: list[str], output: str) -> str:
    """Writes the page that compares two finished runs; returns its path.

    Raises:
      SeamlineError: not two of them, or one that is not finished.
    """
    if len(run_dirs) != 2:
        raise SeamlineError(
            f"--compare={','.join(run_dirs)}: {len(run_dirs)} run directories; give two"
        )
    first, second = (read_run(run_dir) for run_dir in run_dirs)
    storage.write_text(output, render_comparison(first, second))
    return output


def render_comparison(first: Run, second: Run) -> str:
    """What changed from the first run to the second, as one HTML page."""
    runs = (first, second)
    changed, alone, same = differing_settings(first.config, second.config)
    curves = [(x, run.history) for x, run in zip(SIDES, runs, strict=True)]
    baseline = first.scores.get("background_baseline") or {}
    shown, missing = _pictures(first, second)
    return pages.render(
        "compare.html",
        runs=list(zip(SIDES, runs, strict=True)),
        notices=_notices(first, second),
        changed=changed,
        alone=alone,
        same=same,
        headlines=_headlines(first.scores, second.scores),
        charts=lines.training_charts(curves, baseline.get("pixel_accuracy")),
        training=[tables.training(run.history) for run in runs],
        rows=class_differences(first.scores, second.scores),
        gallery=shown,
        missing=missing,
        label_names=second.kept.label_names if second.kept else [],
        colour=gallery.colour,
    )


def differing_settings(
    first: dict[str, Any], second: dict[str, Any]
) -> tuple[list[tuple[str, Any, Any]], list[tuple[str, list[str]]], int]:
    """What differs in two configurations.

    Returns:
      ((name, value there, value here) of each value that differs; (side, names that its
      configuration alone has, as `a=1`); how many values are the same).
    """
    both = [
        tables.settings({k: v for k, v in config.items() if k not in _OWN})
        for config in (first, second)
    ]
    shared = [name for name in both[0] if name in both[1]]
    rows = [(name, both[0][name], both[1][name]) for name in shared]
    changed = [row for row in rows if row[1] != row[2]]
    alone = [
        (side, [f"{x}={pages.setting(own[x])}" for x in own if x not in other])
        for side, own, other in zip(SIDES, both, reversed(both), strict=True)
    ]
    return changed, [row for row in alone if row[1]], len(rows) - len(changed)


def class_differences(
    first: dict[str, Any], second: dict[str, Any]
) -> list[dict[str, Any]]:
    """IoU of each class in both truths and the difference, the largest first."""
    there = {row["name"]: row for row in first.get("per_class", [])}
    rows = []
    for label, row in enumerate(second.get("per_class", [])):
        ious = (there.get(row["name"], {}).get("iou"), row.get("iou"))
        if None not in ious:
            rows.append(
                {
                    **{key: row.get(key) for key in ("name", "pixels", "images")},
                    "label": label,
                    "values": ious,
                    "difference": ious[1] - ious[0],
                }
            )
    return sorted(rows, key=lambda row: -abs(row["difference"]))


def _headlines(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores of both runs and the differences, at `score_size` and original size."""
    rows = []
    for name, one, other in (
        ("", first, second),
        ("at original size", first.get("native"), second.get("native")),
    ):
        there = {x["key"]: x for x in tables.headlines(one or {})}
        here = {x["key"]: x for x in tables.headlines(other or {})}
        for key in dict.fromkeys([*there, *here]):
            values: list[Any] = [x.get(key, {}).get("value") for x in (there, here)]
            if values == [None, None]:
                continue
            known = here.get(key) or there[key]
            rows.append(
                {
                    "name": known["name"],
                    "beside": name,
                    "values": values,
                    "intervals": [
                        x.get(key, {}).get("interval") for x in (there, here)
                    ],
                    "difference": None if None in values else values[1] - values[0],
                }
            )
    return rows


def _notices(first: Run, second: Run) -> list[str]:
    """What must be said before any number is read."""
    said = []
    prints = [run.config.get("records_fingerprint") for run in (first, second)]
    if prints[0] != prints[1]:
        said.append(
            "The runs saw different records, so their scores are not of the same "
            "examples."
        )
    # Runs of older releases were scored at the model's size.
    sizes = [
        run.scores.get("score_size", run.config.get("image_size"))
        for run in (first, second)
    ]
    if sizes[0] != sizes[1]:
        said.append(
            f"Scores are of masks of {sizes[0]}² and {sizes[1]}² pixels; those at "
            "original size are of the same masks, and --score_size takes both at one "
            "size."
        )
    for side, run in zip(SIDES, (first, second), strict=True):
        said += [f"{side}: {notice}" for notice in run.config.get("notices", [])]
    return said


def _pictures(first: Run, second: Run) -> tuple[dict[str, Any] | None, str]:
    """The same photos predicted by both runs; or None and one line that says why."""
    for side, run in zip(SIDES, (first, second), strict=True):
        if run.kept is None:
            return None, (
                f"{side} kept no predictions (it has no examples.zip), so there are no "
                "photos to compare."
            )
    assert first.kept is not None
    assert second.kept is not None
    if first.kept.label_names != second.kept.label_names:
        return None, "The runs have other classes, so there are no photos to compare."
    shared = _shared(first.kept, second.kept)
    if not shared:
        return None, "The runs kept predictions of no photo in common."
    return _gallery(shared, first.kept.label_names), ""


def _shared(first: Collection, second: Collection) -> list[tuple[Kept, Kept, float]]:
    """Examples that both kept, with the difference of their scores, ascending."""
    there = {kept.image_id: kept for kept in first.val if kept.labels}
    pairs = [
        (there[kept.image_id], kept, (kept.score or 0) - (other.score or 0))
        for kept in second.val
        if kept.labels and (other := there.get(kept.image_id))
    ]
    return sorted(pairs, key=lambda pair: (pair[2], pair[0].image_id))


def _gallery(
    shared: list[tuple[Kept, Kept, float]], names: list[str]
) -> dict[str, Any]:
    each = max(1, min(_EACH, len(shared) // 2))
    best = sorted(shared, key=lambda pair: (-pair[2], pair[0].image_id))
    groups = [
        ("B better", [pair for pair in best[:each] if pair[2] > 0]),
        ("A better", [pair for pair in shared[:each] if pair[2] < 0]),
    ]
    if not any(group for _, group in groups):
        groups = [("Alike", shared[:each])]
    groups = [(name, group) for name, group in groups if group]
    masks = [
        mask
        for _, group in groups
        for a, b, _ in group
        for x in (a, b)
        for mask in x.masks()
    ]
    return {
        "groups": [(x, [_view(*pair, names) for pair in group]) for x, group in groups],
        "legend": gallery.legend(masks, names),
        "among": len(shared),
        "better": sum(pair[2] > 0 for pair in shared),
        "worse": sum(pair[2] < 0 for pair in shared),
    }


def _view(
    first: Kept, second: Kept, difference: float, names: list[str]
) -> dict[str, Any]:
    (truth, there), (_, here) = first.masks(), second.masks()
    scores = [pages.number(kept.score) for kept in (first, second)]
    return {
        "id": first.image_id,
        "score": None,
        "height": gallery.units_high(first),
        "said": f"{scores[0]} → {scores[1]} ({pages.signed(difference)})",
        "photo": pages.address(first.photo, "jpeg"),
        "panels": [
            gallery.panel("truth", "Truth", truth, first, names),
            gallery.panel("a", "A", there, first, names),
            gallery.panel("b", "B", here, first, names),
        ],
    }
