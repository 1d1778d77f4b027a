"""The whole road as users go it: real commands, real files, real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

import trainer
from tests.conftest import ROOT, SMALL, run_command
from tests.events import Events
from tests.forks import Command
from tests.tiny import TINY
from trainer.data.card import read_card
from trainer.model.encoders import ENCODERS
from trainer.recipes import RECIPES
from trainer.results import prediction, report
from trainer.results.finished import read_run


def test_a_run_leaves_the_complete_run_directory(finished_run: Path) -> None:
    for name in (
        *("config.json", "model.json", "history.jsonl", "scores.json", "report.html"),
        *("export/saved_model.pb", "tensorboard", "checkpoints/last/checkpoint"),
        *("checkpoints/best/checkpoint", "figures/samples.png"),
        *("figures/predictions.png", "figures/curves.png", "figures/classes.png"),
        "figures/model.png",
    ):
        assert (finished_run / name).exists(), name


def test_tensorboard_shows_each_epoch_and_the_settings(finished_run: Path) -> None:
    found = Events(finished_run)
    for tag in ("loss", "val_mean_iou", "examples", "confusion"):
        assert found.steps(tag) == [2, 4]
    assert found.steps("settings") == [0]
    [text] = found.text("settings")
    assert text.startswith("    python -m trainer.task --dataset=")
    assert "\n| epochs | 2 | 50 |\n" in text


def test_history_and_scores_have_the_documented_keys(finished_run: Path) -> None:
    lines = (finished_run / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    scores = json.loads((finished_run / "scores.json").read_text())
    keys = {
        *("examples", "pixel_accuracy", "foreground_accuracy", "mean_iou"),
        *("mean_iou_all", "frequency_weighted_iou", "mean_recall", "mean_precision"),
        *("mean_f1", "boundary_f1", "interval", "background_baseline"),
        *("per_class", "confusion"),
    }
    assert set(scores) == keys | {"native", "score_size"}
    assert set(scores["native"]) == keys
    headline = keys - {"examples", "interval", "per_class", "confusion"}
    assert set(scores["interval"]) == headline - {"background_baseline"}
    assert set(scores["background_baseline"]) == set(scores["interval"])
    assert set(scores["per_class"][0]) == {
        *("name", "iou", "recall", "precision", "f1", "pixels", "images"),
        *("boundary_f1", "iou_interval"),
    }
    documented = (ROOT / "docs" / "scores.md").read_text()
    for name in {*keys - {"examples"}, *scores["per_class"][0]} - {"name"}:
        assert f"`{name}`" in documented, name
    assert scores["examples"] == 3
    assert np.sum(scores["confusion"]) == 3 * 32 * 32
    assert np.sum(scores["native"]["confusion"]) == 3 * 300 * 200


def test_the_configuration_holds_what_was_asked_and_what_the_recipe_says(
    finished_run: Path,
) -> None:
    config = json.loads((finished_run / "config.json").read_text())
    assert (config["image_size"], config["recipe_values"]["image_size"]) == (32, 128)
    assert config["encoder_training"] == "full"
    assert config["command"].startswith("python -m trainer.task --dataset=")
    assert {"tensorflow_version", "keras_version", "commit", "device"} <= set(config)


def test_the_best_epochs_scores_are_those_of_the_evaluation(
    finished_run: Path, tmp_path: Path
) -> None:
    rows = [
        json.loads(line)
        for line in (finished_run / "history.jsonl").read_text().splitlines()
    ]
    scores = json.loads((finished_run / "scores.json").read_text())
    best = max(row["val_mean_iou"] for row in rows)
    assert scores["mean_iou"] == pytest.approx(best, abs=1e-4)
    done = run_command(
        "trainer.evaluate",
        f"--run_dir={finished_run}",
        f"--output={tmp_path / 'again.json'}",
        cwd=finished_run.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["confusion"] == scores["confusion"]
    assert again["native"]["confusion"] == scores["native"]["confusion"]


def test_rare_classes_are_lifted_as_asked_in_a_finished_run(
    finished_run: Path, tmp_path: Path
) -> None:
    spec = json.loads((finished_run / "model.json").read_text())
    # A class that never occurs is not lifted.
    rarity = [-np.log(x) if x else 0.0 for x in spec["class_shares"]]
    found = []
    for strength in ("0", "2"):
        done = run_command(
            "trainer.evaluate",
            f"--run_dir={finished_run}",
            f"--logit_adjustment={strength}",
            f"--output={tmp_path / 'scores.json'}",
            cwd=finished_run.parent.parent,
        )
        assert done.returncode == 0, done.stderr
        scores = json.loads((tmp_path / "scores.json").read_text())
        predicted = np.sum(scores["confusion"], axis=0)
        found.append(np.average(rarity, weights=predicted))
    assert found[1] > found[0]


def test_a_file_that_cannot_be_written_is_one_line(finished_run: Path) -> None:
    done = run_command(
        "trainer.evaluate",
        f"--run_dir={finished_run}",
        "--output=no/such/folder/scores.json",
        cwd=finished_run.parent.parent,
    )
    assert done.returncode == 42
    assert "Traceback" not in done.stderr
    assert "no/such/folder/scores.json: No such file" in done.stderr


@pytest.fixture(scope="module")
def predicted(finished_run: Path, drawn: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """`trainer.predict` by the run and by its export: folders and what was said."""
    work = tmp_path_factory.mktemp("predicted")
    photos = shutil.copytree(drawn / "photos", work / "photos" / "more")
    (photos.parent / "bad.jpg").write_bytes(b"no photo")
    found = {}
    for model in ("run", "export"):
        found[model] = run_command(
            "trainer.predict",
            f"--model={finished_run if model == 'run' else finished_run / 'export'}",
            f"--input={photos.parent}",
            f"--output_dir={work / model}",
            "--batch_size=5",
            cwd=work,
        )
    return {"work": work, **found}


@pytest.mark.parametrize("model", ["run", "export"])
def test_predict_writes_labels_at_the_photos_size_and_names_a_bad_photo(
    model: str, predicted: dict[str, Any]
) -> None:
    done, out = predicted[model], predicted["work"] / model
    assert done.returncode == 42, done.stderr
    assert "bad.jpg: cannot be decoded" in done.stdout
    assert "Predicted: 14 photos" in done.stdout
    assert os.listdir(out) == ["more"]
    assert len(os.listdir(out / "more")) == 3 * 14
    with Image.open(out / "more" / "0001.labels.png") as picture:
        labels = np.asarray(picture)
        assert picture.mode == "P"
    assert labels.shape == (300, 200)
    assert labels.max() < 59
    areas = json.loads((out / "more" / "0001.json").read_text())["classes"]
    assert sum(area["pixels"] for area in areas.values()) == labels.size


def test_a_run_and_its_export_predict_the_same(predicted: dict[str, Any]) -> None:
    one, other = (predicted["work"] / model / "more" for model in ("run", "export"))
    for path in one.glob("*.labels.png"):
        with Image.open(path) as run, Image.open(other / path.name) as export:
            np.testing.assert_array_equal(np.asarray(run), np.asarray(export))


def test_the_exported_model_needs_tensorflow_alone(
    finished_run: Path, tmp_path: Path
) -> None:
    program = f"""
import numpy as np, sys, tensorflow as tf
model = tf.saved_model.load({str(finished_run / "export")!r})
served = model.signatures["serving_default"]
labels = served(images=tf.zeros([2, 40, 70, 3], tf.uint8))["labels"]
assert labels.shape == (2, 40, 70) and labels.dtype == tf.uint8
assert model.label_names.numpy()[41] == b"skin"
assert not any(name.startswith("trainer") for name in sys.modules)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_killed_and_then_stopped_goes_on_with_the_same_command(
    drawn: Path, tmp_path: Path
) -> None:
    # So many that none ends before its signal.
    command = ("trainer.task", f"--dataset={drawn}", *SMALL, "--epochs=20")
    silent = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        running = Command(*command, cwd=tmp_path, unbuffered=True, **silent)
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if "epoch " in line and "epoch 1/20" not in line:
                running.send_signal(number)
                break
        running.communicate()
        assert running.returncode == code, said
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("".join(said), done.stdout):
        assert "Resuming from" in words
        assert "epoch 1/20" not in words
    [run_dir] = (tmp_path / "runs").iterdir()
    lines = (run_dir / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [*range(1, 21)]


def refuse(*arguments: str, cwd: Path) -> str:
    """Runs a training that must be refused; gives its one line."""
    before = sorted(str(path) for path in cwd.rglob("*"))
    done = run_command("trainer.task", *arguments, cwd=cwd)
    assert done.returncode == 42, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert sorted(str(path) for path in cwd.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--image_size=100"], "--image_size=100: must be a multiple of 32"),
        (["--encoder=vgg99"], "--encoder=vgg99: no such encoder; choose one of"),
        (["--dataset=/nowhere"], "--dataset=/nowhere: no such folder"),
        (["--recipe=secret"], "--recipe=secret: no such recipe"),
        (["--loss=magic"], "--loss=magic: no loss 'magic'"),
        (["stray"], "stray: not a flag"),
        (
            ["--profile_steps=20,10"],
            "--profile_steps=20,10: give the first and the last step, counted from 0, "
            "such as 10,20",
        ),
    ],
)
def test_a_wrong_value_is_one_clear_line_and_writes_nothing(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    assert expected in refuse(*arguments, cwd=tmp_path)


def test_bad_pairs_are_refused_by_the_command_and_nothing_is_written(
    dataset: Path,
) -> None:
    masks = dataset / "annotations" / "pixel-level"
    large = {"groundtruth": np.zeros((400, 300), np.uint8)}
    scipy.io.savemat(masks / "0002.mat", large)
    wrong = {"groundtruth": np.full((300, 200), 77, np.uint8)}
    scipy.io.savemat(masks / "0003.mat", wrong)
    photo = dataset / "photos" / "0004.jpg"
    photo.write_bytes(photo.read_bytes()[:-500])
    work = dataset.parent
    before = sorted(str(path) for path in work.rglob("*"))
    done = run_command("trainer.task", f"--dataset={dataset}", cwd=work)
    assert done.returncode == 42
    assert "Traceback" not in done.stderr
    assert "3 bad pairs" in done.stderr
    assert "0002.mat: mask of 300x400 pixels" in done.stderr
    assert "0003.mat: label 77" in done.stderr
    assert "0004.jpg: truncated JPEG" in done.stderr
    assert sorted(str(path) for path in work.rglob("*")) == before


def test_a_run_directory_with_another_run_is_refused_with_the_difference(
    finished_run: Path, drawn: Path
) -> None:
    line = refuse(
        f"--dataset={drawn}",
        *SMALL,
        "--epochs=2",
        "--learning_rate=0.5",
        f"--run_dir={finished_run}",
        cwd=finished_run.parent.parent,
    )
    usual = RECIPES["default"].learning_rate
    assert f"holds another run (learning_rate: {usual} there, 0.5 now)" in line


@pytest.mark.parametrize("resume", ["never", "must"])
def test_resume_is_honoured(resume: str, finished_run: Path, drawn: Path) -> None:
    place = finished_run if resume == "never" else finished_run.parent / "none"
    line = refuse(
        f"--dataset={drawn}",
        *SMALL,
        "--epochs=2",
        f"--resume={resume}",
        f"--run_dir={place}",
        cwd=finished_run.parent.parent,
    )
    assert f"--resume={resume}" in line


def test_a_run_without_a_readable_checkpoint_is_refused_and_stays_as_it_is(
    finished_run: Path, drawn: Path, tmp_path: Path
) -> None:
    """How often to save and when to end do not make it another run."""
    run_dir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    damaged = list((run_dir / "checkpoints" / "last").glob("*.data-*"))
    assert len(damaged) == 2
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-100])

    def content() -> dict[Path, bytes]:
        return {x: x.read_bytes() for x in run_dir.rglob("*") if x.is_file()}

    before = content()
    line = refuse(
        f"--dataset={drawn}",
        *SMALL,
        *("--epochs=2", "--max_minutes=90", "--save_minutes=1"),
        f"--run_dir={run_dir}",
        cwd=finished_run.parent.parent,
    )
    assert "last: holds no checkpoint that can be read (" in line
    assert content() == before


def test_help_lists_every_flag_others_rely_on(tmp_path: Path) -> None:
    done = run_command("trainer.task", "--help", cwd=tmp_path)
    for name in (
        *("dataset", "records_dir", "run_dir", "recipe", "encoder", "encoder_weights"),
        *("image_size", "record_size", "batch_size", "epochs", "seed", "augment"),
        *("split_fraction", "split_seed", "loss", "optimizer", "learning_rate"),
        *("precision", "strategy", "num_virtual_devices", "resume"),
        *("save_minutes", "max_minutes", "patience", "profile_steps"),
    ):
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout, name


OPTIONS = (
    *("--schedule=polynomial", "--warmup_steps=1", "--learning_rate_floor=1e-5"),
    *("--ema=0.5", "--accumulate=2", "--precision=float16", "--clip_norm=0.5"),
    *("--unfreeze_epoch=1", "--encoder_learning_rate_factor=0.5", "--layer_decay=0.8"),
    "--logit_adjustment=0.3",
)


@pytest.mark.parametrize(
    ("devices", "strategy"),
    [
        (("--xla=true", "--decoder=pix2pix"), "OneDeviceStrategy on 1 of 1"),
        (("--num_virtual_devices=2",), "MirroredStrategy on 2 of 2"),
    ],
    ids=["one device, compiled", "two replicas"],
)
def test_all_options_work_together(
    devices: tuple, strategy: str, records_dir: Path, tmp_path: Path
) -> None:
    """The whole road, on one device and on two replicas."""
    given = ("--epochs=2", "--steps_per_epoch=6", f"--records_dir={records_dir}")
    command = ("trainer.task", *SMALL, *given)
    done = run_command(*command, "--run_dir=run", *OPTIONS, *devices, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert strategy in done.stdout
    assert (tmp_path / "run" / "report.html").exists()
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # Steps whose gradients overflow do not count; the floor is a float32.
    assert 0.99e-5 < rows[-1]["learning_rate"] < rows[0]["learning_rate"] <= 2e-3
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert model["precision"] == "float16"
    shares = read_card(str(records_dir)).frequencies("train")
    assert (model["logit_adjustment"], model["class_shares"]) == (0.3, shares)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    best = max(row["val_mean_iou"] for row in rows)
    assert scores["mean_iou"] == pytest.approx(best, abs=2e-3)


def test_options_that_cannot_work_are_refused_before_data_is_touched(
    tmp_path: Path,
) -> None:
    line = refuse(
        *("--dataset=nowhere", "--xla=true", "--encoder_weights=none"),
        *("--strategy=mirrored", "--num_virtual_devices=2"),
        cwd=tmp_path,
    )
    assert "--xla=true" in line
    assert "--strategy=one_device" in line


def test_a_report_drawn_again_is_the_report_of_the_run(finished_run: Path) -> None:
    """The page that a training wrote, from its files alone."""
    run = read_run(str(finished_run))
    assert report.render_run(run) == (finished_run / "report.html").read_text()
    assert run.kept is not None
    assert len(run.kept.val) == 3


def test_old_runs_get_their_pictures_by_predicting_anew(
    finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "old"
    run_dir.mkdir()
    for name in ("config.json", "model.json", "scores.json", "history.jsonl"):
        (run_dir / name).write_text((finished_run / name).read_text())
    (run_dir / "checkpoints").symlink_to(finished_run / "checkpoints")
    config = json.loads((run_dir / "config.json").read_text())
    config["records_dir"] = str(finished_run.parent.parent / config["records_dir"])
    (run_dir / "config.json").write_text(json.dumps(config))
    done = run_command(
        *("trainer.report", f"--run_dir={run_dir}", "--predict"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again, before = (read_run(str(x)).kept for x in (run_dir, finished_run))
    assert again == before


def test_the_model_of_a_run_is_loaded_with_its_names(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODERS, "tiny", TINY)
    loaded, names = trainer.load_model(str(finished_run))
    known = prediction.load_predictor(str(finished_run))
    photos = np.random.default_rng(7).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        trainer.compile_predictor(loaded)(photos), known.label(photos)
    )
    assert names == list(known.names)
