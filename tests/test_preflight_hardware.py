"""GPUs, drivers and CUDA libraries are held against what a training needs.

No GPU was at hand: what needs one is a substituted reading here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from tests.preflight import row
from trainer.checks import hardware
from trainer.checks.table import Row, Table, Verdict
from trainer.engine import strategy

H100, T4, OLD, NEW = (
    hardware.Gpu("H100", (9, 0)),
    hardware.Gpu("T4", (7, 5)),
    hardware.Gpu("K80", (3, 7)),
    hardware.Gpu("B200", (10, 0)),
)
BUILD = {
    "is_cuda_build": True,
    "cuda_version": "12.5.1",
    "cudnn_version": "9",
    "cuda_compute_capabilities": ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"],
}


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Pretends GPUs and, unless told otherwise, a driver; gives the driver's folder."""

    def pretend(*gpus: hardware.Gpu, driver: bool = True) -> Path:
        folder = tmp_path / "nvidia"
        if driver:
            folder.mkdir()
        monkeypatch.setattr(strategy, "DRIVER", str(folder))
        monkeypatch.setattr(hardware, "seen", lambda: list(gpus))
        monkeypatch.setattr(hardware, "build_info", lambda: BUILD)
        return folder

    return pretend


@pytest.mark.parametrize(
    ("gpus", "driver", "asked", "verdict", "found"),
    [
        ([H100, H100], True, 2, Verdict.OK, "2: H100, H100"),
        ([H100], True, None, Verdict.OK, "1: H100"),
        ([H100], True, 4, Verdict.FAIL, "--gpus=4: TensorFlow sees 1 (H100); request"),
        ([H100, T4], True, 1, Verdict.NOTE, "--gpus=1: TensorFlow sees 2 (H100, T4)"),
        ([H100], True, 0, Verdict.NOTE, "--gpus=0: TensorFlow sees 1 (H100)"),
        ([], True, 1, Verdict.FAIL, "--gpus=1: TensorFlow sees no GPU, though"),
        ([], False, 1, Verdict.FAIL, "--gpus=1: there is no GPU here, nor a driver"),
        ([], True, None, Verdict.NOTE, "TensorFlow sees no GPU, though"),
        ([], False, None, Verdict.NOTE, "none: the CPU trains"),
        ([], True, 0, Verdict.OK, "none: the CPU trains"),
    ],
)
def test_gpus_seen_are_held_against_gpus_asked(
    play: Callable[..., Path],
    gpus: list[hardware.Gpu],
    driver: bool,
    asked: int | None,
    verdict: Verdict,
    found: str,
) -> None:
    play(*gpus, driver=driver)
    table = Table()
    hardware.check_gpus(table, asked, "float32")
    assert row(table, "GPUs").verdict is verdict
    assert row(table, "GPUs").found.startswith(found)


@pytest.mark.parametrize(
    ("gpu", "precision", "verdict", "found"),
    [
        (H100, "bfloat16", Verdict.OK, "this TensorFlow was built for them"),
        (T4, "float32", Verdict.OK, "this TensorFlow was built for them"),
        (T4, "bfloat16", Verdict.NOTE, "T4: compute capability 7.5 does not"),
        (OLD, "float32", Verdict.FAIL, "K80: compute capability 3.7, but TensorFlow"),
        (NEW, "float32", Verdict.NOTE, "B200: compute capability 10.0 is newer than"),
    ],
)
def test_gpus_are_held_against_what_tensorflow_was_built_for(
    play: Callable[..., Path],
    gpu: hardware.Gpu,
    precision: str,
    verdict: Verdict,
    found: str,
) -> None:
    play(gpu, gpu)
    table = Table()
    hardware.check_gpus(table, None, precision)
    assert row(table, "GPU kernels").verdict is verdict
    assert row(table, "GPU kernels").found.startswith(found)


OF_NVIDIA = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)


@pytest.mark.parametrize(
    ("text", "verdict", "found"),
    [
        (OF_NVIDIA.format("535.104.05"), Verdict.OK, "535.104.05, for CUDA 12.5.1"),
        (OPEN.format("550.54.14"), Verdict.OK, "550.54.14, for CUDA 12.5.1"),
        (OF_NVIDIA.format("525.60.13"), Verdict.OK, "525.60.13, for CUDA 12.5.1"),
        (
            OF_NVIDIA.format("470.223.02"),
            Verdict.FAIL,
            "470.223.02, but CUDA 12.5.1 of this TensorFlow needs 525.60; update",
        ),
        ("something else", Verdict.UNCHECKED, "no version in"),
        (None, Verdict.UNCHECKED, "is not there"),
    ],
)
def test_the_driver_is_held_against_the_cuda_of_tensorflow(
    play: Callable[..., Path], text: str | None, verdict: Verdict, found: str
) -> None:
    folder = play(H100)
    if text is not None:
        (folder / "version").write_text(text)
    table = Table()
    hardware.check_driver(table, 1)
    assert row(table, "driver").verdict is verdict
    assert found in row(table, "driver").found


def libraries(asked: int | None = 1) -> Row:
    table = Table()
    hardware.check_libraries(table, asked)
    return table.rows[0]


def test_without_a_driver_no_libraries_are_opened(play: Callable[..., Path]) -> None:
    play(driver=False)
    assert libraries().verdict is Verdict.UNCHECKED


def test_libraries_that_tensorflow_would_open_are_opened(
    play: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where NVIDIA's packages put them; any library will do to be opened."""
    import _ctypes

    play(H100)
    monkeypatch.setattr(hardware, "_DRIVER_LIBRARY", _ctypes.__file__)
    assert libraries().verdict is Verdict.FAIL
    assert libraries().found == (
        "libcudart.so.12, libcublas.so.12, libcudnn.so.9 cannot be opened; TensorFlow "
        "was built with CUDA 12.5.1 and cuDNN 9: pip install 'tensorflow[and-cuda]'"
    )
    paths = {"purelib": str(tmp_path / "site")}
    monkeypatch.setattr(hardware.sysconfig, "get_paths", lambda: paths)
    for part, name in (
        ("cuda_runtime", "libcudart.so.12"),
        ("cublas", "libcublas.so.12"),
        ("cudnn", "libcudnn.so.9"),
    ):
        library = tmp_path / "site" / "nvidia" / part / "lib" / name
        library.parent.mkdir(parents=True)
        library.write_bytes(b"no library")
        assert libraries().found.startswith(name)
        shutil.copy(_ctypes.__file__, library)
    assert libraries().verdict is Verdict.OK


def test_a_container_without_the_library_of_the_driver_fails(
    play: Callable[..., Path],
) -> None:
    play()
    assert libraries().verdict is Verdict.FAIL
    assert libraries().found.startswith("libcuda.so.1 of the driver cannot be opened")


def test_a_tensorflow_without_cuda_fails(
    play: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    play()
    monkeypatch.setattr(hardware, "build_info", lambda: {"is_cuda_build": False})
    assert libraries().verdict is Verdict.FAIL
    assert "was built without CUDA" in libraries().found


def test_what_gpus_lack_stops_a_training_only_where_gpus_are_asked_for(
    play: Callable[..., Path],
) -> None:
    """A driver shows on every machine that has one, whatever a container may use."""
    (play() / "version").write_text(OPEN.format("470.223.02"))
    for asked, verdict in (
        *((1, Verdict.FAIL), (None, Verdict.NOTE)),
        (0, Verdict.UNCHECKED),
    ):
        table = Table()
        hardware.check_driver(table, asked)
        assert table.rows[0].verdict is verdict
        assert libraries(asked).verdict is verdict


def test_a_gpu_that_cannot_compute_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    hardware.check_work(table, ["/cpu:0"])
    assert table.rows[0].verdict is Verdict.UNCHECKED
    assert hardware._convolve("/cpu:0") == 27

    def break_down(device: str) -> float:
        if device == "/gpu:1":
            raise tf.errors.UnimplementedError(None, None, "DNN library is not found.")
        return 27

    monkeypatch.setattr(hardware, "_convolve", break_down)
    table = Table()
    hardware.check_work(table, ["/gpu:0"])
    assert table.rows[0].verdict is Verdict.OK
    hardware.check_work(table, ["/gpu:0", "/gpu:1"])
    assert table.rows[1].verdict is Verdict.FAIL
    assert table.rows[1].found.startswith(
        "/gpu:1: a convolution fails (DNN library is not found.)"
    )
