"""Every encoder against the plain network of Keras with its official preprocessing.

By default one network of each family, of which the smallest is trained and exported.
All of it, in about 20 minutes of one core:

    ENCODERS=full pytest -n 0 tests/test_encoders.py
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import inception_v3
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from tests.conftest import ROOT
from tests.test_unet import spec
from trainer.errors import SeamlineError
from trainer.model import decoders, encoders, stages, unet
from trainer.results import network
from trainer.results.export import export_model

FULL = os.environ.get("ENCODERS") == "full"

# Module and class in keras.applications, parameters of the encoder and of its U-Net
# with pix2pix and 59 classes, channels at strides 2 to 32.
NETWORKS: dict[str, tuple[str, int, int, list[int]]] = {
    "densenet121": (
        "densenet.DenseNet121",
        7_037_504,
        16_472_827,
        [64, 256, 512, 1024, 1024],
    ),
    "densenet169": (
        "densenet.DenseNet169",
        12_642_880,
        25_617_147,
        [64, 256, 512, 1280, 1664],
    ),
    "densenet201": (
        "densenet.DenseNet201",
        18_321_984,
        33_655_547,
        [64, 256, 512, 1792, 1920],
    ),
    "mobilenetv2": (
        "mobilenet_v2.MobileNetV2",
        1_841_984,
        6_584_923,
        [96, 144, 192, 576, 320],
    ),
    "mobilenetv3small": (
        "mobilenet_v3.MobileNetV3Small",
        881_520,
        3_734_171,
        [16, 72, 96, 288, 96],
    ),
    "mobilenetv3large": (
        "mobilenet_v3.MobileNetV3Large",
        2_838_912,
        7_062_587,
        [64, 72, 240, 672, 160],
    ),
    "resnet50": ("resnet.ResNet50", 23_587_712, 37_741_627, [64, 256, 512, 1024, 2048]),
    "resnet101": (
        "resnet.ResNet101",
        42_658_176,
        56_812_091,
        [64, 256, 512, 1024, 2048],
    ),
    "resnet50v2": (
        "resnet_v2.ResNet50V2",
        23_564_800,
        37_718_715,
        [64, 256, 512, 1024, 2048],
    ),
    "resnet101v2": (
        "resnet_v2.ResNet101V2",
        42_626_560,
        56_780_475,
        [64, 256, 512, 1024, 2048],
    ),
    "nasnetmobile": (
        "nasnet.NASNetMobile",
        4_269_716,
        12_284_911,
        [32, 44, 264, 528, 1056],
    ),
    "inceptionv3": (
        "inception_v3.InceptionV3",
        21_802_784,
        35_071_963,
        [64, 192, 288, 768, 2048],
    ),
    "efficientnetb0": (
        "efficientnet.EfficientNetB0",
        3_634_844,
        8_654_263,
        [96, 144, 240, 672, 320],
    ),
    "efficientnetb1": (
        "efficientnet.EfficientNetB1",
        6_160_512,
        11_179_931,
        [96, 144, 240, 672, 320],
    ),
    "efficientnetb2": (
        "efficientnet.EfficientNetB2",
        7_267_314,
        12_600_077,
        [96, 144, 288, 720, 352],
    ),
    "efficientnetb3": (
        "efficientnet.EfficientNetB3",
        10_187_560,
        15_942_099,
        [144, 192, 288, 816, 384],
    ),
    "efficientnetv2b0": (
        "efficientnet_v2.EfficientNetV2B0",
        5_668_432,
        9_935_739,
        [16, 32, 192, 672, 192],
    ),
    "efficientnetv2b1": (
        "efficientnet_v2.EfficientNetV2B1",
        6_680_244,
        10_947_551,
        [16, 32, 192, 672, 192],
    ),
    "efficientnetv2b2": (
        "efficientnet_v2.EfficientNetV2B2",
        8_470_878,
        12_959_369,
        [16, 32, 224, 720, 208],
    ),
    "efficientnetv2b3": (
        "efficientnet_v2.EfficientNetV2B3",
        12_568_126,
        17_393_001,
        [16, 40, 224, 816, 232],
    ),
    "efficientnetv2s": (
        "efficientnet_v2.EfficientNetV2S",
        19_998_560,
        25_311_523,
        [24, 48, 256, 960, 256],
    ),
    "convnexttiny": (
        "convnext.ConvNeXtTiny",
        27_820_128,
        34_106_459,
        [96, 192, 384, 768],
    ),
}
FAMILIES = [
    *("densenet121", "mobilenetv2", "mobilenetv3small", "resnet50", "resnet50v2"),
    *("nasnetmobile", "inceptionv3", "efficientnetb0", "efficientnetv2b0"),
    "convnexttiny",
]
NAMES = list(NETWORKS) if FULL else FAMILIES
TRAINED = list(NETWORKS) if FULL else ["mobilenetv3small"]


def test_every_encoder_is_tested() -> None:
    assert NETWORKS.keys() == encoders.ENCODERS.keys()
    assert set(FAMILIES) <= NETWORKS.keys()


@dataclasses.dataclass
class Built:
    """A plain network of Keras, and the U-Net around the encoder with its weights."""

    name: str
    size: int
    plain: keras.Model
    asked_for: str
    weights: str
    unet: keras.Model

    @property
    def encoder(self) -> keras.Model:
        return self.unet.get_layer(self.name)


def pad_same(patched: pytest.MonkeyPatch) -> None:
    """Keras builds InceptionV3 with "same" padding: the oracle of the adapted one."""
    conv = inception_v3.conv2d_bn
    patched.setattr(
        inception_v3,
        "conv2d_bn",
        lambda *values, **named: conv(*values, **{**named, "padding": "same"}),
    )
    pool = functools.partial(keras.layers.MaxPooling2D, padding="same")
    layers = types.SimpleNamespace(**{**vars(keras.layers), "MaxPooling2D": pool})
    patched.setattr(inception_v3, "layers", layers)


def plain_network(name: str, size: int) -> tuple[keras.Model, str]:
    """Keras's own for ImageNet, but for the values; and the file that it asked for."""
    asked: list[str] = []
    constructor = getattr(keras.applications, NETWORKS[name][0].split(".")[1])
    with pytest.MonkeyPatch.context() as patched:
        pad_same(patched)
        patched.setattr(file_utils, "get_file", lambda n, *_, **__: asked.append(n))
        patched.setattr(keras.Model, "load_weights", lambda *_: None)
        plain = constructor(
            include_top=False, weights="imagenet", input_shape=(size, size, 3)
        )
    rng = np.random.default_rng(0)
    for variable in plain.weights:
        # Statistics, scales and offsets that make a difference, with scales that keep
        # rounding from growing over a hundred layers of random kernels.
        if len(variable.shape) == 1:
            low, high = (0.1, 0.4) if variable.name == "gamma" else (0.5, 1.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    for layer in plain.layers:
        # What files of ImageNet hold; see `_efficientnet`.
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            values = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0]
            layer.set_weights([np.asarray(x) for x in values])
            layer.finalize_state()
    return plain, asked[0]


@pytest.fixture(scope="module", params=NAMES)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    name = request.param
    size = 96 if name == "inceptionv3" else 64
    plain, asked_for = plain_network(name, size)
    weights = str(tmp_path_factory.mktemp("weights") / f"{name}.weights.h5")
    plain.save_weights(weights)
    model = unet.build_model(
        spec(encoder=name, encoder_training="full", image_size=size),
        encoder_weights=weights,
    )
    yield Built(name, size, plain, asked_for, weights, model)
    Path(weights).unlink()
    # Models are cycles, and all of them at once would fill a small machine.
    del plain, model
    gc.collect()


def picture(size: int) -> np.ndarray:
    pixels = np.random.default_rng(1).uniform(0, 255, (1, size, size, 3))
    return pixels.astype(np.float32)


def test_skips_and_parameters_are_the_stated_ones(built: Built) -> None:
    _, own, all_in_all, channels = NETWORKS[built.name]
    sizes = [built.size // 2**k for k in range(6 - len(channels), 6)]
    shapes = [tuple(x.shape[1:]) for x in built.encoder.outputs]
    assert shapes == [(s, s, c) for s, c in zip(sizes, channels, strict=True)]
    assert built.encoder.count_params() == own
    assert built.unet.count_params() == all_in_all


def expected_features(built: Built, image: np.ndarray) -> list[np.ndarray]:
    module = NETWORKS[built.name][0].split(".")[0]
    preprocess = importlib.import_module(f"keras.applications.{module}")
    layers = encoders._layers(built.plain)
    names = [x for x in encoders.find(built.name).skips if x]
    found = [layers["stem_bn1" if x == "stem_padded" else x].output for x in names]
    features = keras.Model(built.plain.input, found)(
        preprocess.preprocess_input(image.copy())
    )
    values = [np.asarray(x) for x in features]
    if built.name == "nasnetmobile":
        values[0] = np.pad(values[0], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return values


def test_features_are_those_of_the_plain_network_preprocessed_officially(
    built: Built,
) -> None:
    image = picture(built.size)
    ready = built.unet.get_layer("preprocessing").output
    ours = built.encoder(keras.Model(built.unet.input, ready)(image))
    for mine, theirs in zip(ours, expected_features(built, image), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())
        assert np.std(theirs) > 0


def test_the_cached_file_looked_for_is_the_one_that_keras_asks_for(
    built: Built,
) -> None:
    file = encoders.find(built.name).weights_file
    assert file.format(size=224) == built.asked_for


def test_every_variable_of_the_encoder_belongs_to_the_stage_of_its_stride(
    built: Built,
) -> None:
    found = stages.encoder_stages(built.unet, built.name)
    stage_of = dict(zip(map(id, built.unet.trainable_variables), found, strict=True))
    within = {id(x) for x in built.encoder.trainable_variables}
    assert within == {x for x, stage in stage_of.items() if stage is not None}
    assert {stage_of[x] for x in within} == set(
        range(5 - len(built.encoder.outputs), 5)
    )
    for layer in built.encoder.layers:
        # Squeeze-and-excitation sees one pixel, whatever the stage.
        if isinstance(layer, keras.layers.Conv2D) and layer.output.shape[1] > 1:
            # Behind a skip comes first what still has its stride.
            halvings = int(np.log2(built.size // layer.output.shape[1]))
            assert stage_of[id(layer.kernel)] in (halvings - 1, halvings), layer.name


@pytest.mark.parametrize("decoder", decoders.DECODERS)
def test_both_decoders_fit(built: Built, decoder: str) -> None:
    features = [keras.Input(x.shape[1:]) for x in built.encoder.outputs]
    logits = decoders.DECODERS[decoder](
        [*[None] * (5 - len(features)), *features], classes=3, momentum=0.9, dropout=0.1
    )
    assert logits.shape == (None, built.size, built.size, 3)


def test_it_learns_a_batch(built: Built) -> None:
    if built.name not in TRAINED:
        pytest.skip("ENCODERS=full trains every encoder")
    masks = np.random.default_rng(2).integers(0, 2, (2, built.size, built.size))
    images = np.float32(masks[..., None] * 200) + picture(built.size) / 8
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3)
    losses = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            losses.append(loss(masks, built.unet(images, training=True)))
        variables = built.unet.trainable_variables
        gradients = tape.gradient(losses[-1], variables)
        assert all(x is not None for x in gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    assert losses[-1] < 0.9 * losses[0]


def test_it_survives_export_and_reload(built: Built, tmp_path: Path) -> None:
    if built.name not in TRAINED:
        pytest.skip("ENCODERS=full exports every encoder")
    made_of = spec(encoder=built.name, encoder_training="full", image_size=built.size)
    images = np.random.default_rng(3).integers(
        0, 256, (1, built.size, built.size, 3), np.uint8
    )
    logits = np.asarray(built.unet(np.float32(images)))
    tolerance = 1e-4 * np.abs(logits).max()

    built.unet.save_weights(tmp_path / "unet.weights.h5")
    again = unet.build_model(made_of)
    again.load_weights(tmp_path / "unet.weights.h5")
    np.testing.assert_allclose(again(np.float32(images)), logits, atol=tolerance)

    export_model(built.unet, made_of, str(tmp_path / "export"), list(images))
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    labels = served(images=tf.constant(images))["labels"].numpy()
    chosen = np.take_along_axis(logits, labels[..., None].astype(int), axis=-1)
    assert len(np.unique(labels)) > 1
    np.testing.assert_allclose(chosen[..., 0], logits.max(-1), atol=tolerance)


def test_it_is_finetuned_or_frozen_as_asked(built: Built) -> None:
    """The last with this model: what is frozen stays so."""
    made_of = spec(encoder=built.name, image_size=built.size)
    finetune = dataclasses.replace(made_of, encoder_training="finetune")
    norms = [x for x in unet.batch_norms(built.encoder) if x.trainable]
    assert bool(norms) is (built.name != "convnexttiny")
    unet._set_training(built.encoder, finetune)
    assert len(built.encoder.trainable_variables) > 50
    assert not any(x.trainable for x in norms)
    unet._set_training(built.encoder, made_of)
    assert not built.encoder.trainable_variables


# Without a plain network


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", TRAINED)
def test_logits_are_float32_in_low_precision(name: str, precision: str) -> None:
    model = unet.build_model(spec(encoder=name, image_size=32, precision=precision))
    logits = model(np.zeros((1, 32, 32, 3), np.float32))
    assert logits.dtype == "float32"
    assert np.isfinite(logits).all()
    layers = model.get_layer(name)._flatten_layers()
    # Those whose batch norms are folded into them are of a class of their own.
    found = {x.compute_dtype for x in layers if isinstance(x, keras.layers.Conv2D)}
    assert found == {precision}


@pytest.mark.skipif(not FULL, reason="ENCODERS=full builds every encoder three times")
@pytest.mark.parametrize("size", [32, 128, 256])
@pytest.mark.parametrize("name", NETWORKS)
def test_skips_are_exact_at_every_multiple_of_32(name: str, size: int) -> None:
    model = encoders.build_encoder(name, image_size=size, weights="none")
    deepest = [size // x.shape[1] for x in model.outputs]
    assert deepest == [2, 4, 8, 16, 32][-len(deepest) :]
    assert [x.shape[3] for x in model.outputs] == NETWORKS[name][3]
    assert model.count_params() == NETWORKS[name][1]


def equal_weights(first: keras.Model, second: keras.Model) -> bool:
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.skipif(not FULL, reason="ENCODERS=full loads every file")
@pytest.mark.parametrize("name", NETWORKS)
def test_keras_own_files_and_baked_ones_give_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = plain_network(name, 96)
    plain.save_weights(tmp_path / "file.weights.h5")
    from_file = encoders.build_encoder(
        name, image_size=64, weights=str(tmp_path / "file.weights.h5")
    )
    # As Keras publishes them: by layer, in the order of layers.
    with h5py.File(tmp_path / "cached.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, plain)
    cached = str(tmp_path / "cached.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: cached)
    from_cache = encoders.build_encoder(name, image_size=64, weights="imagenet")
    assert equal_weights(from_cache, from_file)

    # As docker/bake_weights.py does it.
    baked = encoders.find(name).constructor(
        include_top=False, weights="imagenet", input_shape=(224, 224, 3)
    )
    baked.save_weights(tmp_path / f"{name}.weights.h5")
    monkeypatch.setenv("SEAMLINE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(file_utils, "get_file", None)
    from_image = encoders.build_encoder(name, image_size=64, weights="imagenet")
    assert equal_weights(from_image, from_file)


def test_unnamed_layers_are_found_whatever_was_built_before() -> None:
    keras.layers.ReLU()
    x = image = keras.Input((4, 4, 1))
    for _ in range(11):
        x = keras.layers.ReLU()(x) + 1.0
    x = keras.layers.Activation("relu", name="re_lu_one")(x)
    network = keras.Model(image, keras.layers.ReLU(name="stage_7")(x))
    layers = encoders._layers(network)
    inner = [f"{kind}_{k}" for k in range(1, 11) for kind in ("re_lu", "add")]
    order = ["input_layer", "re_lu", "add", *inner, "re_lu_one", "stage_7"]
    assert [layers[name] for name in order] == network.operations


UNNAMED = ["mobilenetv3small", "convnexttiny"]
UNNAMED += ["mobilenetv3large", "inceptionv3"] if FULL else []


@pytest.mark.parametrize("name", UNNAMED)
def test_skips_without_names_are_what_the_halving_layers_take(name: str) -> None:
    registered = encoders.find(name)
    layers = encoders._layers(
        registered.constructor(include_top=False, weights=None, input_shape=(64, 64, 3))
    )
    for skip in registered.skips[:-1]:
        if skip:
            takers = [node.operation for node in layers[skip]._outbound_nodes]
            sizes = {
                node.outputs[0].shape[1] for x in takers for node in x._inbound_nodes
            }
            assert sizes - {layers[skip].output.shape[1]}, f"{name}: {skip}"


def test_the_picture_of_the_network_names_layers_as_the_registry_does() -> None:
    made_of = spec(encoder="mobilenetv3small", image_size=32)
    drawn = network.stages_of(unet.build_model(made_of))
    named = [x["name"] for x in drawn if x["side"] == "encoder"]
    assert named == list(encoders.find("mobilenetv3small").skips)


def test_pixels_of_the_tutorials_preprocessing_keep_their_order() -> None:
    model = unet.build_model(
        spec(encoder="resnet50", preprocessing="unit", image_size=32)
    )
    ready = keras.Model(model.input, model.get_layer("preprocessing").output)
    pixels = np.float32([0, 51, 255]) * np.ones((1, 32, 32, 3), np.float32)
    np.testing.assert_allclose(ready(pixels)[0, 0, 0], [0, 0.2, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnetb0", "efficientnetv2b0"])
def test_no_features_are_dropped_at_random(name: str) -> None:
    """Which ones would be in no checkpoint, and so not those of a run that goes on."""
    encoder = encoders.build_encoder(name, image_size=32, weights="none")
    image = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    first, second = encoder(image, training=True), encoder(image, training=True)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("resnet5", "resnet50"),
        ("EfficientNetB1", "efficientnetb1"),
        ("convnext", "convnexttiny"),
    ],
)
def test_an_unknown_encoder_is_refused_with_the_closest_first(
    name: str, closest: str
) -> None:
    with pytest.raises(SeamlineError) as refused:
        encoders.find(name)
    text = str(refused.value)
    assert f"--encoder={name}: no such encoder; choose one of {closest}, " in text
    listed = text.partition("choose one of ")[2].split(", ")
    assert sorted(listed) == sorted(encoders.ENCODERS)


# Documentation


def test_the_readme_lists_every_encoder() -> None:
    [row] = re.findall(
        r"^\| `--encoder` \|(.*)\|$", (ROOT / "README.md").read_text(), re.M
    )
    assert re.findall(r"`(\w+)`", row) == list(encoders.ENCODERS)
    assert "(docs/models.md" in row


def test_the_documented_table_is_that_of_the_networks() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) M \| ([\d, –]+) \|", text, re.M)
    expected = [
        (
            name,
            f"{own / 1e6:.1f}",
            ", ".join([*["–"] * (5 - len(channels)), *map(str, channels)]),
        )
        for name, (_, own, _, channels) in NETWORKS.items()
    ]
    assert rows == expected
