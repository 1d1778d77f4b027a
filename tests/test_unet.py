"""The published pix2pix block stands in this file, as tensorflow_examples has it."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from trainer.errors import SeamlineError
from trainer.labels import CCP_LABELS
from trainer.model import decoders, encoders, stages
from trainer.model.decoders import upsample
from trainer.model.unet import (
    ModelSpec,
    batch_norms,
    build_model,
    still_batch_norms,
)


def spec(**changes: object) -> ModelSpec:
    values = {
        "encoder": "mobilenetv2",
        "encoder_training": "frozen",
        "preprocessing": "encoder",
        "image_size": 128,
        "batch_norm_momentum": 0.99,
        "precision": "float32",
        "label_names": CCP_LABELS,
    }
    return ModelSpec(**{**values, **changes})


def learned(model: keras.Model) -> int:
    return sum(int(np.prod(x.shape)) for x in model.trainable_variables)


def test_the_densenet_unet_has_the_tutorials_parameters_and_skips() -> None:
    model = build_model(spec(encoder="densenet121"))
    assert model.count_params() == 16_472_827
    assert learned(model) == 9_433_403
    skips = [tuple(x.shape[1:]) for x in model.get_layer("densenet121").outputs]
    assert skips == [
        *((64, 64, 64), (32, 32, 256), (16, 16, 512), (8, 8, 1024), (4, 4, 1024)),
    ]
    assert model.output_shape == (None, 128, 128, 59)


def test_the_mobilenet_unet_has_its_published_parameters() -> None:
    model = build_model(spec())
    assert model.count_params() == 6_584_923
    assert learned(model) == 4_741_019


def published_upsample(filters: int, size: int) -> keras.Sequential:
    result = keras.Sequential()
    result.add(
        keras.layers.Conv2DTranspose(
            filters,
            size,
            strides=2,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.02),
            use_bias=False,
        )
    )
    result.add(keras.layers.BatchNormalization())
    result.add(keras.layers.ReLU())
    return result


def test_the_upsample_block_is_the_published_one_layer_by_layer() -> None:
    ours, theirs = upsample(64, 3), published_upsample(64, 3)
    for block in (ours, theirs):
        block.build((None, 8, 8, 16))
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert type(mine) is type(other)
        first, second = mine.get_config(), other.get_config()
        assert {**first, "name": 0} == {**second, "name": 0}
        assert [w.shape for w in mine.weights] == [w.shape for w in other.weights]
    assert ours.count_params() == theirs.count_params()
    assert ours.output_shape == (None, 16, 16, 64)
    kernel = np.asarray(ours.layers[0].kernel)
    assert kernel.std() == pytest.approx(0.02, rel=0.05)


def test_the_lateral_decoder_has_stages_of_fewer_channels() -> None:
    model = build_model(spec(decoder="lateral"))
    assert model.output_shape == (None, 128, 128, 59)
    names = [f"upsample_{filters}" for filters in (256, 128, 96, 64)]
    assert [model.get_layer(name).output.shape[1:] for name in names] == [
        *((8, 8, 256), (16, 16, 128), (32, 32, 96), (64, 64, 64)),
    ]
    # 1x1 from below and from the skip, 3x3, two batch norms a stage; last the logits.
    channels = ((320, 576, 256), (256, 192, 128), (128, 144, 96), (96, 96, 64))
    expected = sum((x + y) * f + 9 * f * f + 8 * f for x, y, f in channels)
    encoder = model.get_layer("mobilenetv2").count_params()
    assert model.count_params() - encoder == expected + 64 * 59 + 59


def test_the_lateral_decoder_joins_every_stage_of_the_encoder() -> None:
    model = build_model(spec(decoder="lateral", image_size=32))
    features = model.get_layer("mobilenetv2").outputs
    for index, feature in enumerate(features):
        inputs = [keras.Input(x.shape[1:]) for x in features]
        logits = decoders.lateral(inputs, classes=3, momentum=0.9, dropout=0.0)
        head = keras.Model(inputs, logits)
        rest = [np.ones((1, *x.shape[1:]), np.float32) for x in features]
        before = head(rest)
        rest[index] = rest[index] + 1
        assert np.abs(np.asarray(head(rest) - before)).max() > 1e-6, feature.name


@pytest.mark.parametrize("decoder", decoders.DECODERS)
def test_channels_are_dropped_before_the_logits_only_while_learning(
    decoder: str,
) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    model = build_model(spec(decoder=decoder, decoder_dropout=0.5, image_size=32))
    keras.utils.set_random_seed(0)
    without = build_model(spec(decoder=decoder, image_size=32))
    without.set_weights(model.get_weights())
    np.testing.assert_array_equal(model(pixels), without(pixels))
    first, second = (np.asarray(model(pixels, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-6
    [layer] = [x for x in model.layers if isinstance(x, keras.layers.SpatialDropout2D)]
    kept = np.asarray(layer(np.ones((1, 4, 4, 2000), np.float32), training=True))
    assert set(np.unique(kept)) == {0, 2}
    assert (kept.std(axis=(1, 2)) == 0).all(), "whole channels"


def test_a_model_saved_before_there_was_a_choice_of_decoder_is_pix2pix() -> None:
    saved = json.loads(spec().to_json())
    del saved["decoder"], saved["decoder_dropout"]
    assert ModelSpec.from_json(json.dumps(saved)) == spec()


def test_the_tutorials_preprocessing_divides_by_255() -> None:
    model = build_model(spec(preprocessing="unit", image_size=32))
    layer = model.get_layer("preprocessing")
    pixels = np.float32([[[[0.0, 51.0, 255.0]]]])
    np.testing.assert_allclose(layer(pixels), [[[[0, 0.2, 1]]]], atol=1e-6)


def statistics_move(training: str) -> tuple[bool, bool]:
    """Whether a training step moves batch-norm statistics of (encoder, decoder)."""
    model = build_model(spec(encoder_training=training, image_size=32))
    encoder = model.get_layer("mobilenetv2")
    parts = [batch_norms(encoder), batch_norms(model.get_layer("upsample_512"))]
    before = [[np.array(x.moving_mean) for x in part] for part in parts]
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    model(pixels.astype(np.float32), training=True)
    after = [[np.array(x.moving_mean) for x in part] for part in parts]
    return tuple(
        any(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(before, after, strict=True)
    )


@pytest.mark.parametrize(
    ("training", "encoder_moves", "encoder_learns"),
    [("frozen", False, False), ("finetune", False, True), ("full", True, True)],
)
def test_the_encoder_is_trained_as_asked(
    training: str, encoder_moves: bool, encoder_learns: bool
) -> None:
    assert statistics_move(training) == (encoder_moves, True)
    model = build_model(spec(encoder_training=training, image_size=32))
    assert bool(model.get_layer("mobilenetv2").trainable_variables) is encoder_learns


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_logits_are_float32_whatever_the_model_computes_in(precision: str) -> None:
    model = build_model(spec(image_size=32, precision=precision))
    assert keras.config.dtype_policy().name == "float32"
    logits = model(np.zeros((1, 32, 32, 3), np.float32))
    assert logits.dtype == "float32"
    assert model.get_layer("upsample_64").layers[0].compute_dtype == precision
    assert all(w.dtype == "float32" for w in model.weights)


def test_a_specification_survives_its_json() -> None:
    assert ModelSpec.from_json(spec().to_json()) == spec()


def test_encoder_weights_from_a_file_are_the_ones_in_the_model(tmp_path: Path) -> None:
    source = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    path = str(tmp_path / "encoder.weights.h5")
    source.save_weights(path)
    model = build_model(spec(image_size=32), encoder_weights=path)
    ours = model.get_layer("mobilenetv2").get_weights()
    kernel = source.get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(ours[0], kernel)


def test_weights_that_do_not_fit_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "encoder.weights.h5"
    path.write_bytes(b"no weights")
    with pytest.raises(SeamlineError, match="cannot be loaded into mobilenetv2"):
        build_model(spec(image_size=32), encoder_weights=str(path))


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_file_that_holds_no_weights_is_told_before_records_are_made(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.weights.h5"
    path.write_bytes(content)
    with pytest.raises(SeamlineError, match="neither an HDF5 nor"):
        encoders.resolve_weights("mobilenetv2", str(path), image_size=32)
    source = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    for name in ("encoder.weights.h5", "whole.keras"):
        path = tmp_path / name
        source.save(path) if name == "whole.keras" else source.save_weights(path)
        found = encoders.resolve_weights("mobilenetv2", str(path), image_size=32)
        assert found == str(path)


def test_auto_weights_fall_back_and_named_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoders, "imagenet_available", lambda name, **_: False)
    assert encoders.resolve_weights("mobilenetv2", "auto", image_size=32) == "none"
    with pytest.raises(SeamlineError, match="cannot be reached"):
        encoders.resolve_weights("mobilenetv2", "imagenet", image_size=32)
    with pytest.raises(SeamlineError, match="no such file"):
        encoders.resolve_weights("mobilenetv2", "/nowhere.h5", image_size=32)
    monkeypatch.setattr(encoders, "imagenet_available", lambda name, **_: True)
    assert encoders.resolve_weights("mobilenetv2", "auto", image_size=32) == "imagenet"


def test_cached_weights_count_as_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(encoders.storage, "reachable", lambda url: False)
    assert not encoders.imagenet_available("mobilenetv2", image_size=128)
    (tmp_path / "models").mkdir()
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_128_no_top.h5"
    (tmp_path / "models" / name).write_bytes(b"")
    assert encoders.imagenet_available("mobilenetv2", image_size=128)
    # The file for another size is another file.
    assert not encoders.imagenet_available("mobilenetv2", image_size=64)


def test_learning_rates_fall_towards_the_input() -> None:
    factors = stages.rate_factors([None, 4, 3, 0], encoder=0.5, layer_decay=0.1)
    assert factors == pytest.approx((1, 0.5, 0.05, 0.5e-4))


def test_still_batch_norms_move_again_afterwards() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    mean = model.layers[0].moving_mean
    with still_batch_norms(model):
        model(np.ones((3, 2), np.float32), training=True)
        np.testing.assert_array_equal(mean, [0, 0])
    model(np.ones((3, 2), np.float32), training=True)
    assert np.all(np.array(mean) > 0)
