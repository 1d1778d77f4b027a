"""Pictures: each decodes, shows what it should and stays a sensible size."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from trainer.labels import CCP_LABELS, palette
from trainer.results import charts, figures, tables
from trainer.results.drawing import pixels

GREY = np.uint8([128, 128, 128])


def decoded(png: bytes) -> np.ndarray:
    """RGB uint8 `[H, W, 3]` of a PNG; checks that it is no blank page."""
    assert png.startswith(b"\x89PNG")
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.std() > 3
    assert max(picture.shape) < 6000
    return picture[..., ::-1]


def share(picture: np.ndarray, colour: np.ndarray) -> float:
    return float((picture == colour).all(-1).mean())


@pytest.fixture
def images() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (6, 64, 48, 3), np.uint8)


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.zeros((6, 64, 48), np.uint8)
    masks[:, 10:50, 10:40] = 14
    masks[:, 10:20, 20:30] = 41
    masks[2, :, :5] = 255
    return masks


def history(epochs: int) -> list[dict]:
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "val_mean_iou")
    return [
        {"epoch": epoch, **dict.fromkeys(names, 1 / epoch)}
        for epoch in range(1, epochs + 1)
    ]


def test_overlay_leaves_the_background_and_paints_the_rest(
    images: np.ndarray, masks: np.ndarray
) -> None:
    image, mask = images[0], masks[0]
    painted = figures.overlay(image, mask, palette(59))
    assert painted.shape == image.shape
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[mask == 0], image[mask == 0])
    assert (painted[mask == 14] != image[mask == 14]).any(-1).mean() > 0.9


@pytest.mark.parametrize("shape", [(64, 48), (1, 1), (1, 9), (900, 700)])
@pytest.mark.parametrize("opacity", [0.0, 0.55, 0.8])
def test_an_overlay_is_what_is_painted_laid_over_the_photo(
    shape: tuple[int, int], opacity: float
) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*shape, 3), np.uint8)
    coarse = random.choice(np.uint8([0, 0, 3, 58, 255]), (9, 7))
    mask = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_NEAREST)
    mask[:, : shape[1] // 5] = 0
    painted = figures.paint(mask, palette(59), opacity).astype(float)
    weight = painted[..., 3:] / 255
    expected = np.rint(image * (1 - weight) + painted[..., :3] * weight)
    before = image.copy()
    shown = figures.overlay(image, mask, palette(59), opacity)
    assert abs(shown - expected).max() <= 1
    np.testing.assert_array_equal(image, before)
    assert figures.overlay(image, mask, palette(59), opacity, out=image) is image
    np.testing.assert_array_equal(image, shown)


def test_labels_of_any_integer_type_are_laid_over(
    images: np.ndarray, masks: np.ndarray
) -> None:
    expected = figures.overlay(images[0], masks[0], palette(59))
    for kind in (np.int64, np.int32):
        shown = figures.overlay(images[0], masks[0].astype(kind), palette(59))
        np.testing.assert_array_equal(shown, expected)


def test_overlay_outlines_labels_and_shows_plain_colours_at_full_opacity(
    images: np.ndarray, masks: np.ndarray
) -> None:
    colours = palette(59)
    painted = figures.overlay(images[0], masks[0], colours, opacity=1.0)
    np.testing.assert_array_equal(painted[40, 30], colours[14])
    assert painted[30, 10].sum() < colours[14].sum()


def test_legend_lists_only_the_classes_that_occur_the_largest_first(
    masks: np.ndarray,
) -> None:
    assert figures.legend_labels(masks[:2]) == [0, 14, 41]
    assert figures.legend_labels(masks[:2], np.full((2, 64, 48), 7, np.uint8)) == [
        7, 0, 14, 41,
    ]  # fmt: skip
    assert 255 in figures.legend_labels(masks)
    assert figures.legend_labels() == []


def test_sample_sheet_shows_the_masks_in_the_palette(
    images: np.ndarray, masks: np.ndarray
) -> None:
    sheet = decoded(figures.sample_sheet(images, masks, CCP_LABELS, title="Samples"))
    colours = palette(59)
    assert share(sheet, colours[14]) > 0.05
    assert share(sheet, colours[41]) > 0.005
    assert share(sheet, colours[25]) == 0


def test_sample_sheet_stops_at_eight_examples(
    images: np.ndarray, masks: np.ndarray
) -> None:
    eight = [np.concatenate([part, part])[:8] for part in (images, masks)]
    twelve = [np.concatenate([part, part]) for part in (images, masks)]
    sheets = [
        figures.sample_sheet(*part, CCP_LABELS, title="Samples")
        for part in (eight, twelve)
    ]
    assert sheets[0] == sheets[1]


@pytest.mark.parametrize("size", [(32, 32), (96, 300), (600, 400)])
def test_sheets_take_photos_of_any_size(size: tuple[int, int]) -> None:
    image, mask = np.zeros((1, *size, 3), np.uint8), np.ones((1, *size), np.uint8)
    decoded(figures.sample_sheet(image, mask, ["a", "b"], title="One"))


def test_names_with_dollars_and_of_any_length_are_drawn_as_they_are(
    images: np.ndarray, masks: np.ndarray
) -> None:
    names = ["$x_{1", *[f"a very long name that nobody chose {k}" for k in range(41)]]
    decoded(figures.sample_sheet(images, masks, names, title="$"))
    rows = [{"name": name, "iou": 0.5, "pixels": 3, "images": 1} for name in names]
    decoded(figures.class_bars(rows, title="50 $ and $"))


def test_the_sheet_of_an_epoch_is_the_sheet_of_its_predictions(
    images: np.ndarray, masks: np.ndarray
) -> None:
    images, masks = images[1:4], masks[1:4]
    drawn = figures.EpochSheet(images, masks, CCP_LABELS, title="P")
    for predicted in (masks, masks[::-1]):
        columns = {"prediction": predicted}
        whole = figures.prediction_sheet(images, masks, columns, CCP_LABELS, title="P")
        np.testing.assert_array_equal(drawn.draw(predicted), decoded(whole))


def confused(counts: list[list[int]], names: list[str]) -> np.ndarray:
    scores = {"per_class": [{"name": x} for x in names], "confusion": counts}
    matrix = tables.matrix(scores)
    assert matrix is not None
    return pixels(charts.confusion_chart(matrix, title="Confusion"))


def test_a_confusion_chart_is_blue_where_right_and_orange_where_wrong() -> None:
    blue, orange = np.uint8([110, 168, 232]), np.uint8([240, 160, 92])
    right = confused([[5, 0], [0, 7]], ["a", "b"])
    wrong = confused([[0, 5], [7, 0]], ["a", "b"])
    assert share(right, blue) > 0.01 > 0 == share(right, orange)
    assert share(wrong, orange) > 0.01 > 0 == share(wrong, blue)
    # Of class 1 alone all is right.
    assert share(confused([[4, 4], [0, 9]], ["a", "b"]), blue) == pytest.approx(
        share(right, blue) / 2, rel=0.05
    )


def test_a_confusion_chart_takes_names_of_any_length_and_many_classes() -> None:
    names = ["$x_{1", *[f"a very long name that nobody chose {k}" for k in range(41)]]
    counts = np.random.RandomState(0).randint(0, 99, (42, 42))
    few, many = confused([[1]], ["x"]), confused(counts.tolist(), names)
    assert few.shape < many.shape
    assert max(many.shape) < 2000
    # Nothing is cut off at the sides.
    for edge in (many[:, :20], many[:, -20:]):
        assert (edge == 255).all()


def test_prediction_sheet_greys_ignored_pixels(
    images: np.ndarray, masks: np.ndarray
) -> None:
    sheets = [
        decoded(
            figures.prediction_sheet(
                images[part], masks[part], {"trained": masks[:1]}, CCP_LABELS, title="P"
            )
        )
        for part in (slice(0, 1), slice(2, 3))
    ]
    assert share(sheets[0], GREY) < 0.0005 < 0.01 < share(sheets[1], GREY)


def test_noise_of_the_untrained_model_does_not_lengthen_the_legend(
    images: np.ndarray, masks: np.ndarray
) -> None:
    noise = np.random.RandomState(0).randint(0, 59, masks.shape).astype(np.uint8)

    def height(**columns: np.ndarray) -> int:
        sheet = figures.prediction_sheet(images, masks, columns, CCP_LABELS, title="P")
        return decoded(sheet).shape[0]

    assert height(untrained=noise, trained=masks) == height(early=masks, trained=masks)
    assert height(untrained=masks, trained=noise) > height(early=masks, trained=masks)


@pytest.mark.parametrize("epochs", [0, 1, 50])
def test_curves_of_any_length_are_drawn(epochs: int) -> None:
    decoded(figures.curves(history(epochs), background_accuracy=0.77, title="Training"))


def test_curves_tolerate_missing_values() -> None:
    rows = [*history(3), {"epoch": 4, "loss": None, "val_loss": float("nan")}]
    decoded(figures.curves(rows, background_accuracy=None, title="Training"))


def unet(depth: int = 4, name: str = "stage") -> list[dict]:
    stages = [{"name": "image", "side": "input", "shape": [128, 128, 3]}]
    for side, order in (
        ("encoder", range(1, depth + 2)),
        ("decoder", range(depth, 0, -1)),
    ):
        stages += [
            {
                "name": f"{name}_{k}",
                "side": side,
                "shape": [128 >> k, 128 >> k, 32 << k],
            }
            for k in order
        ]
    return [*stages, {"name": "logits", "side": "output", "shape": [128, 128, 59]}]


def test_model_diagram_grows_with_depth_and_long_names() -> None:
    small, deep, wide = (
        decoded(figures.model_diagram(stages, title="U")).shape
        for stages in (unet(2), unet(4), unet(2, "a_long_layer_name_of_keras"))
    )
    assert deep[0] > small[0]
    assert wide[1] > small[1]


def test_model_diagram_shows_the_number_of_parameters() -> None:
    plain = figures.model_diagram(unet(), title="U")
    counted = figures.model_diagram(
        unet(), title="U", parameters={"total": 9_000_000, "trainable": 5}
    )
    assert (decoded(plain) != decoded(counted)).any()


def test_model_diagram_takes_a_network_without_equal_sizes() -> None:
    stages = unet(3)
    stages[4]["shape"] = [12, 12, 7]
    decoded(figures.model_diagram(stages, title="U"))


def test_class_bars_leave_out_absent_classes() -> None:
    rows = [
        {"name": "skin", "iou": 0.6, "pixels": 1000, "images": 9},
        {"name": "hat", "iou": 0.0, "pixels": 2, "images": 1},
    ]
    absent = {"name": "cape", "iou": None, "pixels": 0, "images": 0}
    one = figures.class_bars(rows, title="IoU")
    assert one == figures.class_bars([absent, *rows[::-1]], title="IoU")
    decoded(one)


def test_class_bars_stop_at_59_classes() -> None:
    rows = [
        {"name": f"class {k}", "iou": k / 100, "pixels": k + 1, "images": 1}
        for k in range(100)
    ]
    assert figures.class_bars(rows, title="IoU") == figures.class_bars(
        rows[41:], title="IoU"
    )


def test_pictures_need_neither_tensorflow_nor_pyplot() -> None:
    code = (
        "import sys, trainer.results.figures, trainer.results.report;"
        "print({'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
