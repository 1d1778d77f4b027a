"""Photos in, label pictures, overlays and areas out; by a model easy to check."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.cgroups import memory_group
from tests.conftest import ROOT
from tests.gcs import Cloud
from tests.test_photo_kinds import INVERSE, encoded, inked, quarters, turned
from trainer import storage
from trainer.data.pairs import BadSample
from trainer.labels import palette
from trainer.results import prediction
from trainer.results.photo_files import find_photos
from trainer.results.prediction import Predictor

NAMES = ["null", "red", "green", "blue"]
SIZE = 32


def label_colours(photos: np.ndarray) -> np.ndarray:
    """1, 2 or 3 where red, green or blue stands out, else 0."""
    assert photos.dtype == np.uint8
    high = photos.max(-1).astype(int) - photos.min(-1) > 100
    return np.where(high, photos.argmax(-1) + 1, 0).astype(np.uint8)


FITTED = Predictor(label_colours, NAMES, SIZE)
ANY_SIZE = Predictor(label_colours, NAMES, None)


def predict(
    source: Path | str,
    output_dir: Path | str,
    predictor: Predictor = FITTED,
    **options: object,
) -> list[BadSample]:
    files = find_photos(str(source), str(output_dir))
    options = {"batch_size": 4, **options}
    found = list(prediction.label_files(files, predictor, str(output_dir), **options))
    assert len(found) == len(files)
    return [problem for problem in found if problem is not None]


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def truth(height: int, width: int) -> np.ndarray:
    return label_colours(quarters(height, width))


def agreement(labels: np.ndarray, expected: np.ndarray) -> float:
    assert labels.shape == expected.shape
    return float((labels == expected).mean())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list]:
    """Photos of many kinds and sizes, what was predicted, and what was wrong."""
    folder = tmp_path_factory.mktemp("mixed")
    photos = {
        "a.jpg": encoded(quarters(200, 150), "JPEG", quality=95),
        "a.png": encoded(quarters(60, 90), "PNG"),
        "grey.jpg": encoded(np.full((50, 40), 99, np.uint8), "JPEG"),
        "broken.jpg": encoded(quarters(), "JPEG")[:-40],
        "deep/er/cmyk.jpg": inked((0, 255, 255, 0)),
        "deep/wide.webp": encoded(quarters(40, 800), "WEBP", lossless=True),
        "deep/one.bmp": encoded(quarters(1, 1), "BMP"),
        **{f"turned/{k}.jpg": turned("JPEG", k) for k in INVERSE},
    }
    for name, content in photos.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    problems = predict(folder / "in", folder / "out")
    return folder / "in", folder / "out", problems


def test_results_mirror_the_folders_and_no_two_collide(
    mixed: tuple[Path, Path, list],
) -> None:
    source, out, problems = mixed
    names = {
        *("a.jpg", "a.png", "grey", "deep/er/cmyk", "deep/wide", "deep/one"),
        *(f"turned/{k}" for k in INVERSE),
    }
    expected = {
        f"{name}.{ending}"
        for name in names
        for ending in ("labels.png", "overlay.jpg", "json")
    }
    assert set(storage.list_files(str(out))) == expected
    [problem] = problems
    assert str(problem).startswith(f"{source}/broken.jpg: truncated JPEG")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("a.jpg", (200, 150)), ("a.png", (60, 90)), ("deep/wide", (40, 800))],
)
def test_labels_are_ids_at_the_photos_own_size(
    name: str, shape: tuple[int, int], mixed: tuple[Path, Path, list]
) -> None:
    labels = labels_of(mixed[1] / f"{name}.labels.png")
    assert agreement(labels, truth(*shape)) > 0.9
    with Image.open(mixed[1] / f"{name}.labels.png") as picture:
        shown = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(shown, palette(4)[labels])


@pytest.mark.parametrize("orientation", INVERSE)
def test_labels_stand_upright_however_the_camera_was_held(
    orientation: int, mixed: tuple[Path, Path, list]
) -> None:
    labels = labels_of(mixed[1] / f"turned/{orientation}.labels.png")
    assert agreement(labels, truth(48, 80)) > 0.9


def test_inks_and_grey_are_labelled_by_what_one_sees(
    mixed: tuple[Path, Path, list],
) -> None:
    assert (labels_of(mixed[1] / "deep/er/cmyk.labels.png") == 1).all()
    assert (labels_of(mixed[1] / "grey.labels.png") == 0).all()


def test_the_json_names_classes_and_their_areas(mixed: tuple[Path, Path, list]) -> None:
    out = mixed[1]
    found = json.loads((out / "deep/wide.json").read_text())
    assert (found["file"], found["height"], found["width"]) == (
        "deep/wide.webp",
        40,
        800,
    )
    labels = labels_of(out / "deep/wide.labels.png")
    assert set(found["classes"]) == set(NAMES)
    for name, area in found["classes"].items():
        assert area["label"] == NAMES.index(name)
        assert area["pixels"] == (labels == area["label"]).sum()
        assert area["share"] == pytest.approx(area["pixels"] / 32000, abs=1e-6)
    pixels = [area["pixels"] for area in found["classes"].values()]
    assert pixels == sorted(pixels, reverse=True)
    assert list(json.loads((out / "grey.json").read_text())["classes"]) == ["null"]


def test_the_overlay_shows_the_photo_under_colours(
    mixed: tuple[Path, Path, list],
) -> None:
    shown = cv2.imread(str(mixed[1] / "a.jpg.overlay.jpg"))[..., ::-1].astype(int)
    assert shown.shape == (200, 150, 3)
    assert abs(shown[150, 110] - 255).max() < 20, "the background stays"
    half = 0.45 * np.array([255, 0, 0]) + 0.55 * palette(4)[1]
    assert abs(shown[20, 20] - half).max() < 20


@pytest.mark.parametrize("kind", ["png", "none"])
def test_overlays_are_left_out_or_without_loss_as_asked(
    kind: str, tmp_path: Path, mixed: tuple[Path, Path, list]
) -> None:
    assert predict(mixed[0] / "a.jpg", tmp_path, overlays=kind) == []
    assert (tmp_path / "a.overlay.png").exists() == (kind == "png")
    assert not (tmp_path / "a.overlay.jpg").exists()
    # The labels do not depend on it.
    one, other = tmp_path / "a.labels.png", mixed[1] / "a.jpg.labels.png"
    assert one.read_bytes() == other.read_bytes()


def test_a_model_without_a_size_of_its_own_gets_each_photo_as_it_is(
    tmp_path: Path, mixed: tuple[Path, Path, list]
) -> None:
    assert len(predict(mixed[0], tmp_path, ANY_SIZE)) == 1
    np.testing.assert_array_equal(
        labels_of(tmp_path / "a.png.labels.png"), truth(60, 90)
    )
    np.testing.assert_array_equal(
        labels_of(tmp_path / "deep/wide.labels.png"), truth(40, 800)
    )


def test_a_photo_too_long_for_jpeg_gets_an_overlay_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(encoded(quarters(2, 66000), "PNG"))
    assert predict(tmp_path / "long.png", tmp_path / "out") == []
    assert (tmp_path / "out" / "long.overlay.png").exists()


def test_a_photo_that_cannot_be_read_is_told_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "b.png").write_bytes(encoded(quarters(), "PNG"))
    (tmp_path / "c.png").write_bytes(b"")
    problems = predict(tmp_path, tmp_path / "out")
    assert sorted(map(str, problems)) == [
        f"{tmp_path}/a.jpg: cannot be read (No such file or directory)",
        f"{tmp_path}/c.png: is empty (0 bytes); replace the file",
    ]
    assert (tmp_path / "out" / "b.json").exists()


def test_results_that_cannot_be_written_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(encoded(quarters(), "PNG"))
    (tmp_path / "out" / "b.labels.png").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        predict(tmp_path / "b.png", tmp_path / "out")


def test_the_command_counts_and_answers_with_its_exit_code(
    tmp_path: Path,
    mixed: tuple[Path, Path, list],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prediction, "load_predictor", lambda model: FITTED)
    where = {"model": "m", "output_dir": str(tmp_path)}
    with caplog.at_level(logging.INFO, "seamline"):
        assert prediction.predict_photos(source=str(mixed[0]), **where) == 42
        assert f"Predicted: 14 photos -> {tmp_path}; 1 left out" in caplog.text
        assert caplog.text.count("broken.jpg") == 1
        good = str(mixed[0] / "turned")
        assert prediction.predict_photos(source=good, **where) == 0


def test_a_bucket_gives_photos_and_takes_results(cloud: Cloud, bucket: str) -> None:
    storage.write_bytes(f"{bucket}/in/a.png", encoded(quarters(60, 90), "PNG"))
    storage.write_bytes(f"{bucket}/in/b/a.jpg", encoded(quarters(), "JPEG"))
    storage.write_bytes(f"{bucket}/in/b/bad.jpg", b"no photo")
    [problem] = predict(f"{bucket}/in", f"{bucket}/out")
    assert str(problem).startswith(f"{bucket}/in/b/bad.jpg: cannot be decoded")
    names = cloud.names(bucket.removeprefix("gs://"))
    assert [name for name in names if name.startswith("out/")] == [
        f"out/{name}.{ending}"
        for name in ("a", "b/a")
        for ending in ("json", "labels.png", "overlay.jpg")
    ]
    content = storage.read_bytes(f"{bucket}/out/a.labels.png")
    labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert labels.shape == (60, 90, 3)


# How photos go through


def test_photos_go_through_the_model_in_batches(tmp_path: Path) -> None:
    for number in range(10):
        content = encoded(quarters(40, 40 + number), "PNG")
        (tmp_path / f"{number}.png").write_bytes(content)
    sizes = []

    def label(photos: np.ndarray) -> np.ndarray:
        sizes.append(len(photos))
        return label_colours(photos)

    assert predict(tmp_path, tmp_path / "out", Predictor(label, NAMES, SIZE)) == []
    assert sorted(sizes) == [2, 4, 4]


def test_two_batches_are_in_the_model_at_once(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(quarters(), "PNG"))
    both = threading.Barrier(2)

    def label(photos: np.ndarray) -> np.ndarray:
        both.wait(timeout=60)
        return label_colours(photos)

    assert predict(tmp_path, tmp_path / "out", Predictor(label, NAMES, SIZE)) == []
    assert len(list((tmp_path / "out").glob("*.json"))) == 8


def test_pixels_on_the_way_are_bounded_and_a_large_photo_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 3000 pixels, in groups of 1000, or one photo that has more."""
    monkeypatch.setattr(prediction, "_MOST_PIXELS", 3000)
    shapes = [(20, 20)] * 9 + [(80, 80)] + [(20, 20)] * 5
    for number, shape in enumerate(shapes):
        content = encoded(quarters(*shape), "PNG")
        (tmp_path / f"{number:02d}.png").write_bytes(content)
    lock = threading.Lock()
    held, most, batches = 0, [], []
    decode, write = prediction._decode, prediction._write

    def count(pixels: int) -> None:
        nonlocal held
        with lock:
            held += pixels
            most.append(held)

    def counted_decode(*arguments: object, **options: object) -> prediction.Decoded:
        decoded = decode(*arguments, **options)
        count(decoded.height * decoded.width)
        return decoded

    def counted_write(
        photo: prediction.Decoded, *rest: object, **options: object
    ) -> None:
        write(photo, *rest, **options)
        count(-photo.height * photo.width)

    def label(photos: np.ndarray) -> np.ndarray:
        batches.append(len(photos))
        return label_colours(photos)

    monkeypatch.setattr(prediction, "_decode", counted_decode)
    monkeypatch.setattr(prediction, "_write", counted_write)
    assert predict(tmp_path, tmp_path / "out", Predictor(label, NAMES, SIZE)) == []
    # Two batches may change places.
    assert sorted(batches) == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert held == 0
    assert sorted(set(most))[-1] == 6400, "the large one was never beside another"
    assert sorted(set(most))[-2] <= 3000


LARGE = """
import sys
import numpy as np
from trainer.results import prediction
from trainer.results.photo_files import find_photos

source, output_dir = sys.argv[1:]
model = prediction.Predictor(lambda photos: photos[..., 0] // 128, ["a", "b"], 32)
files = find_photos(source, output_dir)
problems = list(prediction.label_files(files, model, output_dir, batch_size=16))
print(problems.count(None), "done")
"""


def test_many_large_photos_fit_into_a_small_container(tmp_path: Path) -> None:
    """Held all at once they would take 1.2 GB, beside what TensorFlow takes."""
    (tmp_path / "in").mkdir()
    for name, shape in {"a": (7000, 7200), "b": (3000, 4000)}.items():
        content = encoded(quarters(*shape), "JPEG")
        for number in range(4 if name == "a" else 16):
            (tmp_path / "in" / f"{name}{number}.jpg").write_bytes(content)
    with memory_group(1200 << 20) as group:
        done = subprocess.run(
            [
                *(*group.prefix, sys.executable, "-c", LARGE),
                *(str(tmp_path / "in"), str(tmp_path / "out")),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "20 done\n", done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 60
