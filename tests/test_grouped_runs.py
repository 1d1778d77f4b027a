"""Whole runs, scored as groups and at other sizes, and trained on groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.preflight import ask, row
from tests.test_views import resize, softmax
from tests.tiny import tiny
from trainer import inspection, label_groups, pipeline, recipes, scoring
from trainer.checks.table import Verdict
from trainer.data import examples, images, records
from trainer.data.card import read_card
from trainer.engine import compilation, state
from trainer.engine.boundaries import boundary_f1
from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS
from trainer.model import decoders, losses
from trainer.model.encoders import ENCODERS, Encoder

VALUES: dict[str, Any] = {
    **{"encoder": "tiny", "encoder_weights": "none", "image_size": 32},
    **{"batch_size": 4, "epochs": 1, "steps_per_epoch": 6, "learning_rate": 0.01},
    **{"encoder_learning_rate_factor": 1.0, "augment": "random", "ema": 0.0},
    **{"decoder": "pix2pix", "decoder_dropout": 0.0, "class_weight_power": 0.5},
}


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    skips = tuple(f"stage_{index}" for index in range(5))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENCODERS, "tiny", Encoder(tiny, skips, (1 / 255, 0.0), ""))
        patched.setattr(decoders, "UPSAMPLE_FILTERS", (16, 12, 8, 6))
        yield


def train(
    records_dir: Path,
    run_dir: Path,
    *,
    image_size: int = 32,
    strategy: str = "one_device",
    knobs: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """What `trainer.task` does."""
    given = VALUES | {"image_size": image_size} | (knobs or {})
    pipeline.run(
        recipe_name="default",
        recipe=recipes.resolve("default", given),
        data={"dataset": "auto", "records_dir": str(records_dir)},
        stage_dir=None,
        input_limits={},
        run_dir=str(run_dir),
        seed=0,
        precision="float32",
        strategy=strategy,
        num_virtual_devices=0,
        resume="auto",
        training={},
        **({"xla": "false"} | values),
    )


def evaluate(run_dir: Path, **values: Any) -> dict[str, Any]:
    """What `trainer.evaluate` does."""
    given = {"records_dir": None, "stage_dir": None, "input_limits": {}}
    given |= {"split": "val", "output": None}
    return scoring.evaluate_run(run_dir=str(run_dir), **{**given, **values})


def scores_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "scores.json").read_text())


@pytest.fixture(scope="module")
def plain_run(records_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    train(records_dir, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the fourteen groups, but skin and hair are ignored."""
    groups = label_groups.read("ccp14", CCP_LABELS).to_dict()
    groups["ignore"] = groups.pop("skin") + groups.pop("hair")
    path = tmp_path_factory.mktemp("groups") / "aside.json"
    path.write_text(json.dumps(groups))
    return path


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    """The class weights that losses were built with."""
    return []


@pytest.fixture(scope="module")
def grouped_run(
    records_dir: Path,
    aside: Path,
    weights: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Trained on the groups of `aside`."""
    build, run_dir = losses.build_loss, tmp_path_factory.mktemp("runs") / "grouped"

    def note(text: str, **values: Any) -> losses.Sum:
        weights.append(values["weights"])
        return build(text, **values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(losses, "build_loss", note)
        train(records_dir, run_dir, groups=str(aside))
    return run_dir


def merged(confusion: list[list[int]], labels: np.ndarray, count: int) -> np.ndarray:
    """Rows and columns of one group added up; those of ignored classes left out."""
    one_hot = (labels[:, np.newaxis] == np.arange(count)).astype(int)
    return one_hot.T @ np.array(confusion) @ one_hot


def test_scores_of_groups_are_those_of_the_merged_confusion(plain_run: Path) -> None:
    groups = label_groups.read("ccp9", CCP_LABELS)
    before, after = scores_of(plain_run), evaluate(plain_run, groups="ccp9")
    for own, all_classes in ((after, before), (after["native"], before["native"])):
        expected = merged(all_classes["confusion"], groups.table[:59], 9)
        np.testing.assert_array_equal(own["confusion"], expected)
        assert own["pixel_accuracy"] == np.trace(expected) / expected.sum()
        assert [x["name"] for x in own["per_class"]] == groups.names
    assert after["label_groups"] == groups.to_dict()
    assert after["pixel_accuracy"] > before["pixel_accuracy"]


def test_ignored_classes_are_neither_scored_nor_answered(
    plain_run: Path, aside: Path, records_dir: Path
) -> None:
    groups = label_groups.read(str(aside), CCP_LABELS)
    scores = evaluate(plain_run, groups=str(aside))
    card = read_card(str(records_dir))
    masks = records.native_masks(str(records_dir), card, "val")
    labels = [groups.table[mask] for mask in masks]
    # All that is to be scored is scored: none is lost to an answer without a column.
    rows = np.sum(scores["native"]["confusion"], axis=1)
    assert rows.tolist() == [sum((x == y).sum() for x in labels) for y in range(12)]
    before = merged(scores_of(plain_run)["confusion"], groups.table[:59], 12)
    assert np.sum(scores["confusion"]) > before.sum()


def test_views_are_averaged_where_they_are_asked_for(
    plain_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, output = scores_of(plain_run), tmp_path / "scores.json"
    with caplog.at_level("INFO", "seamline"):
        scores = evaluate(plain_run, flip=True, scales="1,2", output=str(output))
    assert "Views: 4 of each image, at 32², 64², each mirrored too" in caplog.messages
    assert scores["test_time"] == {"flip": True, "image_sizes": [32, 64]}
    assert scores["confusion"] != before["confusion"]
    assert np.sum(scores["confusion"]) == np.sum(before["confusion"])
    assert json.loads(output.read_text()) == scores
    plain = evaluate(plain_run)
    assert plain["test_time"] == {"flip": False, "image_sizes": [32]}
    assert plain["label_groups"] is None
    assert plain["confusion"] == before["confusion"]


def test_the_newest_model_is_scored_where_it_is_asked_for(
    records_dir: Path, tmp_path: Path
) -> None:
    """As validation saw it, averages and all, whatever the best one was."""
    run_dir = tmp_path / "run"
    train(records_dir, run_dir, knobs={"epochs": 3, "ema": 0.9})
    rows = state.read_history(str(run_dir))
    checkpoints = run_dir / "checkpoints"
    # Were the last epoch the best, either could pass for the other.
    for path in (checkpoints / "best").glob(f"ckpt-{rows[-1]['step']}.*"):
        path.unlink()
    best = max(rows[:-1], key=lambda epoch: epoch["val_mean_iou"])
    for checkpoint, epoch in (("last", rows[-1]), ("best", best)):
        scores = evaluate(run_dir, checkpoint=checkpoint)
        assert scores["checkpoint"] == checkpoint
        found = [scores[x] for x in ("foreground_accuracy", "mean_iou", "mean_recall")]
        told = ("val_foreground_accuracy", "val_mean_iou", "val_mean_recall")
        assert found == pytest.approx([epoch[x] for x in told], rel=1e-6)
    for path in (checkpoints / "last").iterdir():
        path.unlink()
    with pytest.raises(SeamlineError, match="checkpoints/last is empty"):
        evaluate(run_dir, checkpoint="last")


def test_a_run_goes_on_compiled_as_it_began(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run" / "config.json"
    monkeypatch.setattr(compilation, "_PAYS_AFTER", 1)
    for ratio in (1.5, 0.5):
        monkeypatch.setattr(compilation, "speed", lambda precision, x=ratio: x)
        train(records_dir, tmp_path / "run", xla="auto")
        assert json.loads(config.read_text())["xla"] is True


def test_a_run_of_few_steps_is_not_compiled(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "speed", lambda precision: pytest.fail("measured"))
    train(records_dir, tmp_path / "run", xla="auto")
    config = tmp_path / "run" / "config.json"
    assert json.loads(config.read_text())["xla"] is False


@pytest.fixture(scope="module")
def large_run(records_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model at 64² on two replicas, scored at 32²."""
    run_dir = tmp_path_factory.mktemp("runs") / "large"
    train(records_dir, run_dir, image_size=64, strategy="mirrored", score_size=32)
    return run_dir


def nearest(mask: np.ndarray, size: int) -> np.ndarray:
    """The pixels nearest to the centres of the new ones."""
    rows, columns = (
        ((np.arange(size) + 0.5) * x / size).astype(int) for x in mask.shape
    )
    return mask[np.ix_(rows, columns)]


def confusion_of(
    truths: list[np.ndarray], labels: list[np.ndarray], classes: int
) -> np.ndarray:
    counts = np.zeros((256, classes), int)
    np.add.at(counts, (np.array(truths), np.array(labels)), 1)
    return counts[:classes]


@pytest.mark.parametrize("score_size", [32, 20, 96])
def test_a_model_is_scored_at_any_size_as_by_hand(
    score_size: int, large_run: Path, records_dir: Path
) -> None:
    """Probabilities are resized, then labels chosen; masks are the records' own."""
    model, _ = state.load_model(str(large_run))
    found = list(records.read(str(records_dir), read_card(str(records_dir)), "val"))
    photos = [images.resize_image(images.decode_image(x.image), 64, 64) for x in found]
    mean = softmax(model(np.array(photos, "f4"), training=False).numpy().astype(float))
    labels = list(resize(mean, score_size).argmax(axis=-1))
    truths = [nearest(images.decode_mask(x.mask), score_size) for x in found]
    scores = evaluate(large_run, score_size=score_size)
    expected = confusion_of(truths, labels, 59)
    np.testing.assert_array_equal(
        np.sum(scores["confusion"], axis=1), expected.sum(axis=1)
    )
    # A pixel where two classes are as good as alike may go either way.
    assert np.abs(np.array(scores["confusion"]) - expected).sum() <= 4
    met = np.array([boundary_f1(*x, 59) for x in zip(truths, labels, strict=True)])
    bounded = met[:, ~np.isnan(met).all(axis=0)]
    assert abs(scores["boundary_f1"] - np.nanmean(bounded, axis=0).mean()) < 0.01
    assert scores["score_size"] == score_size
    assert scores["native"]["confusion"] == scores_of(large_run)["native"]["confusion"]


def test_models_of_two_sizes_are_scored_on_one_truth(
    plain_run: Path, large_run: Path
) -> None:
    small, large = scores_of(plain_run), scores_of(large_run)
    assert (small["score_size"], large["score_size"]) == (32, 32)
    np.testing.assert_array_equal(*(np.sum(x["confusion"], 1) for x in (small, large)))
    assert large["confusion"] == evaluate(large_run, score_size=32)["confusion"]
    own = evaluate(large_run)
    assert own["score_size"] == 64
    assert np.sum(own["confusion"]) > 3 * np.sum(large["confusion"])
    # What is asked for is what there was anyway.
    same = evaluate(plain_run, score_size=32)
    assert {name: same[name] for name in small} == small
    assert "at 32² pixels" in (large_run / "report.html").read_text()


def test_a_size_goes_with_groups_views_and_records_that_are_streamed(
    large_run: Path,
    aside: Path,
    records_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups = label_groups.read("ccp9", CCP_LABELS)
    before = evaluate(large_run, score_size=32, flip=True)
    monkeypatch.setattr(examples, "_EXAMPLES_SHARE", 0)
    with caplog.at_level("INFO", "seamline"):
        after = evaluate(large_run, score_size=32, flip=True, groups="ccp9")
    assert any("read from the records when needed" in x for x in caplog.messages)
    assert "Scores: at 32², the model's size is 64²" in caplog.messages
    expected = merged(before["confusion"], groups.table[:59], 9)
    np.testing.assert_array_equal(after["confusion"], expected)
    twelve = label_groups.read(str(aside), CCP_LABELS)
    values = {"groups": str(aside), "scales": "1,1.5", "score_size": 96}
    rows = np.sum(evaluate(large_run, **values)["confusion"], axis=1)
    found = records.read(str(records_dir), read_card(str(records_dir)), "val")
    masks = [nearest(images.decode_mask(x.mask), 96) for x in found]
    labels = twelve.table[np.array(masks)]
    assert rows.tolist() == [(labels == label).sum() for label in range(12)]


def test_a_model_trained_on_groups_knows_the_groups_alone(
    grouped_run: Path, aside: Path, weights: list[np.ndarray], records_dir: Path
) -> None:
    groups = label_groups.read(str(aside), CCP_LABELS)
    spec = json.loads((grouped_run / "model.json").read_text())
    assert spec["label_names"] == groups.names
    config = json.loads((grouped_run / "config.json").read_text())
    assert config["groups"] == groups.to_dict()
    assert config["identity"]["label_groups"] == groups.digest
    scores, card = scores_of(grouped_run), read_card(str(records_dir))
    assert [x["name"] for x in scores["per_class"]] == groups.names
    masks = list(records.native_masks(str(records_dir), card, "val"))
    pixels = sum(np.bincount(groups.table[x].ravel(), minlength=256) for x in masks)
    assert (
        np.sum(scores["native"]["confusion"], axis=1).tolist() == pixels[:12].tolist()
    )
    masks = [
        images.decode_mask(x.mask)
        for x in records.read(str(records_dir), card, "train")
    ]
    counts = sum(np.bincount(groups.table[x].ravel(), minlength=256) for x in masks)[
        :12
    ]
    # Those of `VALUES`, from the pixels of the groups.
    there = counts > 0
    expected = np.ones(12)
    expected[there] = (np.median(counts[there]) / counts[there]) ** 0.5
    [used] = weights
    np.testing.assert_allclose(used, np.clip(expected, 0.25, 8.0), rtol=1e-6)
    report = (grouped_run / "report.html").read_text()
    assert card.fingerprint in report
    assert "outerwear" in report


def test_its_evaluation_needs_no_word_of_the_groups(
    grouped_run: Path, aside: Path
) -> None:
    scores = evaluate(grouped_run)
    assert scores["confusion"] == scores_of(grouped_run)["confusion"]
    assert scores["label_groups"] == json.loads(aside.read_text())


def test_a_model_trained_on_groups_is_scored_on_groups_of_them(
    grouped_run: Path, aside: Path, tmp_path: Path
) -> None:
    path = tmp_path / "groups.json"
    seven = label_groups.read("ccp9", CCP_LABELS).to_dict()
    seven["ignore"] = seven.pop("skin") + seven.pop("hair")
    path.write_text(json.dumps(seven))
    coarse = label_groups.read(str(path), CCP_LABELS)
    labels = coarse.coarsen(label_groups.read(str(aside), CCP_LABELS), "seven")
    expected = merged(scores_of(grouped_run)["confusion"], labels, 7)
    scores = evaluate(grouped_run, groups=str(path))
    np.testing.assert_array_equal(scores["confusion"], expected)
    path.write_text(json.dumps({name: [name] for name in CCP_LABELS}))
    with pytest.raises(SeamlineError, match=r"puts '\w+' and '[\w-]+' apart, but the"):
        evaluate(grouped_run, groups=str(path))


def test_a_run_goes_on_with_its_own_groups_alone(
    grouped_run: Path, plain_run: Path, records_dir: Path, aside: Path
) -> None:
    digest = label_groups.read(str(aside), CCP_LABELS).digest
    nine = label_groups.read("ccp9", CCP_LABELS).digest
    for run_dir, given, there, now in (
        (grouped_run, None, digest, None),
        (grouped_run, "ccp9", digest, nine),
        (plain_run, "ccp9", None, nine),
    ):
        with pytest.raises(SeamlineError) as caught:
            train(records_dir, run_dir, groups=given)
        assert f"label_groups: {there} there, {now} now" in str(caught.value)


def test_a_preview_shows_the_groups_that_the_model_sees(
    grouped_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[np.ndarray, list[str]]] = []

    def sheet(photos: np.ndarray, masks: np.ndarray, *others: Any, **_: Any) -> bytes:
        shown.append((masks, others[-1]))
        return b""

    monkeypatch.setattr(inspection, "batch_sheet", sheet)
    for given in (None, "ccp9"):
        inspection.preview(
            run_dir=str(grouped_run),
            recipe_name="default",
            overrides={"augment": "none"},
            data=None,
            stage_dir=None,
            seed=None,
            step=2,
            output=str(tmp_path / "b.png"),
            groups=given,
        )
    (twelve, names), (nine, coarse) = shown
    assert len(names) == 12
    assert len(coarse) == 9
    assert set(np.unique(twelve)) <= {*range(12), 255}
    assert (nine[twelve == names.index("bag")] == coarse.index("accessories")).all()
    assert (nine[twelve == 255] >= coarse.index("skin")).all()


def test_preflight_checks_groups_and_knows_the_run(
    records_dir: Path, tmp_path: Path
) -> None:
    data = {"records_dir": str(records_dir)}
    found = row(ask(data=data, groups="ccp9"), "label_groups")
    assert found.verdict is Verdict.OK
    assert found.found.startswith("59 classes become background, upper_clothes, ")
    table = ask(data=data, groups="ccp8", run_dir=str(tmp_path))
    assert row(table, "label_groups").verdict is Verdict.FAIL
    assert row(table, "label_groups").found.startswith("--label_groups=ccp8: no such")
    assert "label_groups" not in [x.check for x in ask(data=data).rows]
