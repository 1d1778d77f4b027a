"""The article's script as a peer: it is the article's, and both are measured alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import train_test_split

from tests.conftest import SMALL_REAL, run_command
from tests.test_augment import PUBLISHED, SIZE
from trainer import recipes
from trainer.benchmarks import article, children, tutorial
from trainer.benchmarks.children import Moment
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.tutorial import Turn
from trainer.data import examples
from trainer.data.card import read_card
from trainer.data.sources import Source
from trainer.errors import SeamlineError
from trainer.layout import Layout
from trainer.recipes import Recipe

SPOKESMAN = """
import sys
held = bytearray(400 << 20)
print("halfway there")
# More than a pipe holds: it goes on when all before has been read.
for _ in range(5000):
    print("and on and on and on and on and on and on and on")
more = bytearray(400 << 20)
print("a last word")
sys.exit(int(sys.argv[1]))
"""


def test_the_script_trains_on_all_pairs_and_then_on_seven_copies_of_all() -> None:
    random = np.random.default_rng(0)
    images = random.random((3, SIZE, SIZE, 3), np.float32)
    masks = random.integers(0, 59, (3, SIZE, SIZE, 1)).astype(np.uint8)
    pairs = tf.data.Dataset.from_tensor_slices((images, masks))
    found = list(article.augmented(pairs).as_numpy_iterator())
    assert len(found) == 8 * 3
    moving = ("central_crop", "flip_horizontal", "flip_vertical", "rotate")
    expected = iter(found)
    for name, op in PUBLISHED.items():
        for image, mask in zip(images, masks, strict=True):
            changed, moved = next(expected)
            np.testing.assert_allclose(changed, op(image), atol=1e-6, err_msg=name)
            # The published script casts what it has resized bilinearly.
            truth = tf.cast(op(mask), tf.uint8) if name in moving else mask
            np.testing.assert_array_equal(moved, truth, err_msg=name)


def test_the_script_splits_as_scikit_learn_does() -> None:
    for count in (14, 850):
        train, val = train_test_split(range(count), test_size=0.2, random_state=3)
        assert article.split(count, 0.2, 3) == (train, val)


def test_the_script_reads_photos_in_rgb_with_the_masks_of_their_names(
    drawn: Path,
) -> None:
    names, images, masks = article.read_pairs(str(drawn))
    assert names == sorted(path.stem for path in (drawn / "photos").iterdir())
    for name, image, mask in zip(names, images, masks, strict=True):
        content = tf.io.read_file(str(drawn / "photos" / f"{name}.jpg"))
        off = tf.cast(tf.io.decode_jpeg(content), tf.float32)
        off -= tf.cast(image, tf.float32)
        # Decoders round differently; blue for red would be off by far more.
        assert float(tf.reduce_mean(tf.abs(off))) < 2
        assert mask.shape == image.shape[:2]
    small = article.resize_mask(tf.constant([[0, 40], [0, 40]], tf.uint8), 4)
    # In between lie labels that the mask does not hold, as in the article.
    assert small[0, :, 0].numpy().tolist() == [0, 10, 30, 40]


def test_labels_of_the_script_are_scored_by_the_names_of_their_photos(
    records_dir: Path, tmp_path: Path
) -> None:
    val = examples.streamed(
        str(records_dir), read_card(str(records_dir)), "val", image_size=32
    )
    _, truths = val.fetch(range(len(val)))
    path = str(tmp_path / "labels.npz")
    np.savez(path, ids=list(val.ids)[::-1], labels=truths[::-1])
    scores = tutorial.score_labels(path, str(records_dir), 32)
    assert scores == dict.fromkeys(scores, 1.0)
    assert set(scores) == {"pixel_accuracy", "foreground_accuracy", "mean_iou"}
    np.savez(path, ids=val.ids, labels=np.zeros_like(truths))
    scores = tutorial.score_labels(path, str(records_dir), 32)
    assert scores["pixel_accuracy"] == pytest.approx(np.mean(truths == 0))
    assert scores["foreground_accuracy"] == 0


def test_both_are_measured_from_raw_files_to_a_trained_model(
    drawn: Path, tmp_path: Path
) -> None:
    arguments = (f"--dataset={drawn}", "--repeats=1", "--epochs=1", "--json=b.json")
    done = run_command(
        "trainer.benchmark", "--what=tutorial", *arguments, *SMALL_REAL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    rows = {
        row["name"].removeprefix("tutorial."): row["value"]
        for row in content["measurements"]
    }
    assert 0 < rows["training_seconds"] < rows["seconds"]
    assert rows["wall_ratio"] == pytest.approx(rows["seconds"] / rows["script_seconds"])
    assert rows["memory_ratio"] == pytest.approx(
        rows["peak_memory_mb"] / rows["script_peak_memory_mb"]
    )
    assert 300 < rows["script_peak_memory_mb"] < 4000
    for name in ("pixel_accuracy", "foreground_accuracy", "mean_iou"):
        assert 0 <= rows[name] <= 1
        assert 0 <= rows[f"script_{name}"] <= 1
    assert "14 pairs" in done.stdout
    # All was made in folders of its own that are gone.
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_the_precision_asked_for_is_that_of_trainer_task_alone(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    class BothSeen(Exception):
        pass

    def follow(command: list[str], mark: str) -> tuple[Moment, Moment]:
        commands.append(command)
        if len(commands) == 2:
            raise BothSeen
        return Moment(1, 1), Moment(1, 1)

    monkeypatch.setattr(children, "follow", follow)
    asked = dataclasses.replace(settings(dataset=str(drawn)), precision="auto")
    with pytest.raises(BothSeen):
        tutorial.measure(asked)
    assert "--precision=auto" in commands[0]
    assert not [x for x in commands[1] if x.startswith("--precision")]
    assert all("--seed=0" in command for command in commands)


def test_each_turn_has_a_seed_of_its_own(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def turn(source: Source, recipe: Recipe, settings: Settings, seed: int) -> Turn:
        seeds.append(seed)
        scores = dict.fromkeys(tutorial._SCORES, seed / 10)
        return Turn(*[Moment(1, 1)] * 3, scores=scores, script_scores=scores)

    monkeypatch.setattr(tutorial, "_turn", turn)
    asked = dataclasses.replace(settings(dataset=str(drawn)), seed=5, repeats=3)
    rows = {row.name: row for row in tutorial.measure(asked)}
    assert seeds == [5, 6, 7]
    assert rows["tutorial.mean_iou"].value == 0.6
    assert rows["tutorial.mean_iou"].detail.endswith("3 turns, 0.500 to 0.700")


def test_medians_of_ratios_count_and_not_ratios_of_medians() -> None:
    def turn(ours: float, theirs: float) -> Turn:
        scores = {"pixel_accuracy": ours, "foreground_accuracy": 0, "mean_iou": 0}
        return Turn(
            trained=Moment(ours, 100),
            done=Moment(2 * ours, 300),
            script=Moment(theirs, 1000),
            scores=scores,
            script_scores=scores,
        )

    turns = [turn(1, 10), turn(2, 4), turn(6, 8)]
    rows = {row.name: row for row in tutorial._rows(turns, "small")}
    assert rows["tutorial.wall_ratio"].value == 1.0
    assert "3 turns, 0.200 to 1.500" in rows["tutorial.wall_ratio"].detail
    assert rows["tutorial.wall_ratio_training"].value == 0.5
    assert rows["tutorial.memory_ratio"].value == 0.3
    assert rows["tutorial.seconds"].value == 4
    assert rows["tutorial.script_seconds"].value == 8
    assert rows["tutorial.pixel_accuracy"].value == 2


LAYOUT = Layout(images_dir="a", masks_dir="b", label_names="c")


def settings(recipe: str = "tutorial", **values: object) -> Settings:
    data = {"dataset": "none", "layout": None, "records_dir": None, "skip_bad": False}
    data["workers"] = 1
    own = {x: values.pop(x) for x in list(values) if x in data}
    return Settings(
        recipe=recipes.resolve(recipe, {"encoder_weights": "none", **values}),
        data={**data, **own},
        input_limits={},
        seed=0,
        repeats=1,
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (settings(records_dir="x"), "--records_dir: --what=tutorial trains on raw"),
        (settings(skip_bad=True), "--skip_bad: --what=tutorial trains on raw"),
        (settings(layout=LAYOUT), "--images_dir, --masks_dir and"),
        (settings(dataset="gs://x/y"), "gs://x/y"),
    ],
)
def test_other_data_than_raw_files_of_ccps_layout_is_refused(
    asked: Settings, said: str
) -> None:
    with pytest.raises(SeamlineError) as refusal:
        tutorial._source(asked)
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (settings(learning_rate=0.1), "other values of learning_rate; besides"),
        (settings("default"), "encoder_training"),
        (settings(steps_per_epoch=0), "--steps_per_epoch=0"),
    ],
)
def test_another_recipe_than_the_articles_is_refused(
    asked: Settings, said: str
) -> None:
    with pytest.raises(SeamlineError, match=said):
        tutorial._settle(asked.recipe)


def test_a_command_is_followed_to_a_line_and_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spokesman.py").write_text(SPOKESMAN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    halfway, end = children.follow(["spokesman", "0"], "halfway")
    assert 0 < halfway.seconds < end.seconds
    assert 400 < halfway.megabytes < 600
    assert end.megabytes >= halfway.megabytes
    with pytest.raises(SeamlineError, match=r"exit code 3; its last(?s:.*)a last word"):
        children.follow(["spokesman", "3"], "halfway")
    with pytest.raises(SeamlineError, match="never said 'the end'"):
        children.follow(["spokesman", "0"], "the end")
