"""Seamline: a folder of photos and masks in, a trained segmentation model out.

The names of `__all__` are for programs and notebooks; docs/library.md explains them.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Data",
    "Picture",
    "augment_batch",
    "build_loss",
    "build_metrics",
    "build_model",
    "compile_predictor",
    "draw_batch",
    "draw_curves",
    "draw_examples",
    "draw_model",
    "draw_predictions",
    "load_model",
    "open_data",
    "score_model",
]

if TYPE_CHECKING:
    from trainer.library import (
        Data,
        augment_batch,
        build_loss,
        build_metrics,
        build_model,
        compile_predictor,
        load_model,
        open_data,
        score_model,
    )
    from trainer.pictures import (
        Picture,
        draw_batch,
        draw_curves,
        draw_examples,
        draw_model,
        draw_predictions,
    )
else:
    # Every command imports this package first, and some do without TensorFlow.
    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from trainer.quiet import quiet_imports

        with quiet_imports():
            from trainer import library, pictures
        return getattr(library if hasattr(library, name) else pictures, name)

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__})
