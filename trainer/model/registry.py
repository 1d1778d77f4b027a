"""The encoders by name, as data; Keras alone is imported, for docker/ uses it too."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

_apps = keras.applications

Rescaling = tuple[float | list[float], float | list[float]]

# keras.applications.imagenet_utils.preprocess_input, as (scale, offset) of x in 0..255:
# mode "torch": x / 255, then (x - mean) / std of ImageNet; mode "tf": -1..1; mode
# "caffe": less the mean of ImageNet, blue first.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORCH: Rescaling = (
    [1 / 255 / std for std in _STD],
    [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
)
_TF: Rescaling = (1 / 127.5, -1.0)
_CAFFE: Rescaling = (1.0, [-103.939, -116.779, -123.68])


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A classification network of `keras.applications` used as an encoder.

    Attributes:
      constructor: takes `include_top`, `weights`, `input_shape`.
      skips: names of the layers at strides 2, 4, 8, 16, 32, as `summary()` shows them
        in a process that has built nothing else; None for a stride that the network
        steps over.
      rescaling: (scale, offset) that maps 0..255 to what the network was trained on.
      weights_file: how Keras names the cached ImageNet weights without the top;
        `{size}` is the input size they were trained at.
      bgr: the network was trained on blue, green, red; rescaling is in that order.
      first: the layer that the encoder begins with, where Keras has put preprocessing
        that cannot be left out before it.
    """

    constructor: Callable[..., keras.Model]
    skips: tuple[str | None, ...]
    rescaling: Rescaling
    weights_file: str
    bgr: bool = False
    first: str | None = None


def _same_padded_inception(
    *, include_top: bool, weights: str | None, input_shape: tuple[int, int, int]
) -> keras.Model:
    """InceptionV3 with "same" padding wherever it has "valid".

    Keras's own turns 128 pixels into 63, 30, 13, 6 and 2, which meet no decoder, and
    refuses less than 75. Kernels do not depend on padding, so all weights stay.
    """
    plain = _apps.InceptionV3(
        include_top=include_top, weights=weights, input_shape=(None, None, 3)
    )

    def same(layer: keras.Layer) -> keras.Layer:
        config: dict[str, Any] = layer.get_config()
        if "padding" in config:
            config["padding"] = "same"
        return type(layer).from_config(config)

    image = keras.Input(input_shape)
    adapted = keras.models.clone_model(plain, input_tensors=image, clone_function=same)
    adapted.set_weights(plain.get_weights())
    return adapted


def _nasnet(
    *, include_top: bool, weights: str | None, input_shape: tuple[int, int, int]
) -> keras.Model:
    """NASNetMobile with the stem's output at exactly half the input's size.

    Its first convolution is "valid": 128 pixels become 63, where the last row and
    column would need pixels from outside. All behind it is exact, since NASNet pads
    what is odd. So the network stays as it is, and zeros stand in for that row and
    column in the skip alone.
    """
    plain = _apps.NASNetMobile(
        include_top=include_top, weights=weights, input_shape=input_shape
    )
    stem = plain.get_layer("stem_bn1").output
    stem = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="stem_padded")(stem)
    return keras.Model(plain.input, [stem, plain.output], name=plain.name)


def _densenet(depth: int) -> Encoder:
    return Encoder(
        getattr(_apps, f"DenseNet{depth}"),
        ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
        _TORCH,
        f"densenet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5",
    )


def _mobilenet_v3(size: str, *skips: str) -> Encoder:
    """As in MobileNetV2: what a block that halves the size has expanded."""
    return Encoder(
        functools.partial(
            getattr(_apps, f"MobileNetV3{size.title()}"), include_preprocessing=False
        ),
        skips,
        _TF,
        f"weights_mobilenet_v3_{size}_224_1.0_float_no_top_v2.h5",
    )


def _resnet(depth: int, blocks: int) -> Encoder:
    """`blocks`: in the stage at stride 16."""
    return Encoder(
        getattr(_apps, f"ResNet{depth}"),
        (
            "conv1_relu",
            "conv2_block3_out",
            "conv3_block4_out",
            f"conv4_block{blocks}_out",
            "conv5_block3_out",
        ),
        _CAFFE,
        f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5",
        bgr=True,
    )


def _resnet_v2(depth: int, blocks: int) -> Encoder:
    """The last block of a stage halves the size, after this activation."""
    return Encoder(
        getattr(_apps, f"ResNet{depth}V2"),
        (
            "conv1_conv",
            "conv2_block3_preact_relu",
            "conv3_block4_preact_relu",
            f"conv4_block{blocks}_preact_relu",
            "post_relu",
        ),
        _TF,
        f"resnet{depth}v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    )


def _efficientnet(variant: str, last: str) -> Encoder:
    """As in MobileNetV2: what a block that halves the size has expanded.

    Keras's preprocessing inside depends on how weights were given: files of ImageNet
    hold the standard deviation as a variance, and only `weights="imagenet"` mends that
    (TensorFlow's issue 49930). All in all it is x / 255, then (x - mean) / std.
    """
    return Encoder(
        getattr(_apps, f"EfficientNet{variant.upper()}"),
        (
            "block2a_expand_activation",
            "block3a_expand_activation",
            "block4a_expand_activation",
            "block6a_expand_activation",
            last,
        ),
        _TORCH,
        f"efficientnet{variant}_notop.h5",
        first="stem_conv_pad",
    )


def _efficientnet_v2(
    variant: str, half: str, quarter: str, last: str, rescaling: Rescaling = _TORCH
) -> Encoder:
    """Blocks 2 and 3 halve while they expand, so the output of the one before it is."""
    return Encoder(
        functools.partial(
            getattr(_apps, f"EfficientNetV2{variant.upper()}"),
            include_preprocessing=False,
        ),
        (
            half,
            quarter,
            "block4a_expand_activation",
            "block6a_expand_activation",
            last,
        ),
        rescaling,
        f"efficientnetv2-{variant}_notop.h5",
    )


ENCODERS = {
    "densenet121": _densenet(121),
    "densenet169": _densenet(169),
    "densenet201": _densenet(201),
    "mobilenetv2": Encoder(
        _apps.MobileNetV2,
        (
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "block_16_project",
        ),
        _TF,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5",
    ),
    "mobilenetv3small": _mobilenet_v3(
        "small",
        *("activation", "re_lu_2", "activation_1", "activation_11"),
        "expanded_conv_10_add",
    ),
    "mobilenetv3large": _mobilenet_v3(
        "large",
        *("re_lu_1", "re_lu_5", "activation_1", "activation_13"),
        "expanded_conv_14_add",
    ),
    "resnet50": _resnet(50, blocks=6),
    "resnet101": _resnet(101, blocks=23),
    "resnet50v2": _resnet_v2(50, blocks=6),
    "resnet101v2": _resnet_v2(101, blocks=23),
    "nasnetmobile": Encoder(
        _nasnet,
        (
            "stem_padded",
            "reduction_concat_stem_1",
            "normal_concat_3",
            "normal_concat_8",
            "normal_concat_12",
        ),
        _TF,
        "nasnet_mobile_no_top.h5",
    ),
    "inceptionv3": Encoder(
        _same_padded_inception,
        ("activation_2", "activation_4", "mixed2", "mixed7", "mixed10"),
        _TF,
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "efficientnetb0": _efficientnet("b0", "block7a_project_bn"),
    "efficientnetb1": _efficientnet("b1", "block7b_add"),
    "efficientnetb2": _efficientnet("b2", "block7b_add"),
    "efficientnetb3": _efficientnet("b3", "block7b_add"),
    "efficientnetv2b0": _efficientnet_v2(
        "b0", "block1a_project_activation", "block2b_add", "block6h_add"
    ),
    "efficientnetv2b1": _efficientnet_v2(
        "b1", "block1b_add", "block2c_add", "block6i_add"
    ),
    "efficientnetv2b2": _efficientnet_v2(
        "b2", "block1b_add", "block2c_add", "block6j_add"
    ),
    "efficientnetv2b3": _efficientnet_v2(
        "b3", "block1b_add", "block2c_add", "block6l_add"
    ),
    "efficientnetv2s": _efficientnet_v2(
        "s", "block1b_add", "block2d_add", "block6o_add", (1 / 128, -1.0)
    ),
    "convnexttiny": Encoder(
        functools.partial(_apps.ConvNeXtTiny, include_preprocessing=False),
        (None, "add_2", "add_5", "add_14", "layer_normalization"),
        _TORCH,
        "convnext_tiny_notop.h5",
    ),
}
