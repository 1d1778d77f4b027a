"""GPUs, their driver and libraries, as this TensorFlow needs them."""

from __future__ import annotations

import ctypes
import dataclasses
import glob
import os
import re
import sysconfig
from typing import Any

import tensorflow as tf

from trainer.checks.table import Table, Verdict
from trainer.engine import strategy

_OLDEST_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""By major version of CUDA: the first driver that runs all its minor versions (NVIDIA,
"CUDA Toolkit Release Notes", table of minimum driver versions)."""

_BFLOAT16_FROM = (8, 0)
"""Compute capability (NVIDIA, "CUDA C++ Programming Guide", arithmetic throughput)."""

_DRIVER_LIBRARY = "libcuda.so.1"

_INSTALL = "pip install 'tensorflow[and-cuda]'"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as TensorFlow sees it; `capability` is None where it is not known."""

    name: str
    capability: tuple[int, int] | None


def seen() -> list[Gpu]:
    """The GPUs of this machine that TensorFlow can use."""
    details = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return [
        Gpu(row.get("device_name", "GPU"), row.get("compute_capability"))
        for row in details
    ]


def build_info() -> dict[str, Any]:
    """What this TensorFlow was built for."""
    return dict(tf.sysconfig.get_build_info())


def check_gpus(table: Table, asked: int | None, precision: str) -> None:
    """As many GPUs as asked for, and ones that this TensorFlow has kernels for."""
    gpus = seen()
    table.add("GPUs", *_count(gpus, asked))
    known = [gpu for gpu in dict.fromkeys(gpus) if gpu.capability]
    odd = [row for gpu in known if (row := _oddity(gpu, precision))]
    for row in odd:
        table.add("GPU kernels", *row)
    if known and not odd:
        table.add("GPU kernels", Verdict.OK, "this TensorFlow was built for them")


def _count(gpus: list[Gpu], asked: int | None) -> tuple[Verdict, str]:
    names = ", ".join(gpu.name for gpu in gpus)
    if gpus and asked is not None and len(gpus) != asked:
        what = f"--gpus={asked}: TensorFlow sees {len(gpus)} ({names})"
        if len(gpus) > asked:
            return Verdict.NOTE, f"{what}; CUDA_VISIBLE_DEVICES chooses"
        hint = "see whether CUDA_VISIBLE_DEVICES hides some"
        return Verdict.FAIL, f"{what}; request more, or {hint}"
    if gpus:
        return Verdict.OK, f"{len(gpus)}: {names}"
    if asked:
        return Verdict.FAIL, f"--gpus={asked}: {_why_none()}"
    if asked is None and os.path.exists(strategy.DRIVER):
        return Verdict.NOTE, f"{_why_none()}. Training would use the CPU"
    return (Verdict.NOTE if asked is None else Verdict.OK), "none: the CPU trains"


def _why_none() -> str:
    if os.path.exists(strategy.DRIVER):
        return (
            f"TensorFlow sees no GPU, though {strategy.DRIVER} is there; see the rows "
            "driver and CUDA libraries, and whether this container was given a GPU"
        )
    return (
        "there is no GPU here, nor a driver; run where GPUs are (in Kubernetes: "
        "request nvidia.com/gpu for this container too)"
    )


def _oddity(gpu: Gpu, precision: str) -> tuple[Verdict, str] | None:
    """What does not fit between a GPU, this TensorFlow and the precision, if any."""
    assert gpu.capability is not None
    built = [
        divmod(int(number), 10)
        for text in build_info().get("cuda_compute_capabilities", [])
        for number in re.findall(r"\d+", text)
    ]
    have = f"{gpu.name}: compute capability {'.'.join(map(str, gpu.capability))}"
    release = f"TensorFlow {tf.__version__}"
    if built and gpu.capability < min(built):
        least = ".".join(map(str, min(built)))
        return Verdict.FAIL, f"{have}, but {release} needs {least}; use a newer GPU"
    if precision == "bfloat16" and gpu.capability < _BFLOAT16_FROM:
        slow = "--precision=bfloat16 is slower there than float32"
        return Verdict.NOTE, f"{have} does not multiply bfloat16: {slow}"
    if built and gpu.capability > max(built):
        return Verdict.NOTE, (
            f"{have} is newer than {release}, which compiles its kernels at the first "
            "start: that may take half an hour"
        )
    return None


def check_driver(table: Table, asked: int | None) -> None:
    """A driver that is new enough for the CUDA that TensorFlow was built with."""
    place = os.path.join(strategy.DRIVER, "version")
    cuda = str(build_info().get("cuda_version", ""))
    if asked == 0 or not os.path.exists(place):
        why = "no GPU is asked for" if asked == 0 else f"{place} is not there"
        table.add("driver", Verdict.UNCHECKED, why)
        return
    with open(place, encoding="utf-8") as file:
        match = re.search(r"Kernel Module.*?\s((\d+)\.(\d+)[.\d]*)", file.read())
    oldest = _OLDEST_DRIVERS.get(int(cuda.split(".")[0] or 0))
    if match is None or oldest is None:
        what = f"no version in {place}" if match is None else f"CUDA '{cuda}': unknown"
        table.add("driver", Verdict.UNCHECKED, what)
    elif (int(match[2]), int(match[3])) < oldest:
        needed = ".".join(map(str, oldest))
        text = f"{match[1]}, but CUDA {cuda} of this TensorFlow needs {needed}"
        table.add("driver", _grave(asked), f"{text}; update the driver of the node")
    else:
        table.add("driver", Verdict.OK, f"{match[1]}, for CUDA {cuda}")


def _grave(asked: int | None) -> Verdict:
    """How bad it is that GPUs cannot be used: without `--gpus` the CPU trains then."""
    return Verdict.FAIL if asked else Verdict.NOTE


def check_libraries(table: Table, asked: int | None) -> None:
    """The driver's library and those of CUDA, which TensorFlow opens at run time."""
    check, info = "CUDA libraries", build_info()
    if asked == 0 or not os.path.exists(strategy.DRIVER):
        why = "no GPU is asked for" if asked == 0 else f"no {strategy.DRIVER}"
        table.add(check, Verdict.UNCHECKED, why)
        return
    if not info.get("is_cuda_build"):
        text = f"TensorFlow {tf.__version__} was built without CUDA; {_INSTALL}"
        table.add(check, _grave(asked), text)
        return
    cuda, cudnn = (info[f"{name}_version"] for name in ("cuda", "cudnn"))
    major = cuda.split(".")[0]
    packaged = [f"libcudart.so.{major}", f"libcublas.so.{major}"]
    packaged.append(f"libcudnn.so.{cudnn.split('.')[0]}")
    missing = ", ".join(name for name in packaged if not _opens(name))
    if not _opens(_DRIVER_LIBRARY):
        text = f"{_DRIVER_LIBRARY} of the driver cannot be opened; give the container "
        text += "a GPU, and put its folder into LD_LIBRARY_PATH"
        table.add(check, _grave(asked), text)
    elif missing:
        built = f"TensorFlow was built with CUDA {cuda} and cuDNN {cudnn}"
        text = f"{missing} cannot be opened; {built}: {_INSTALL}"
        table.add(check, _grave(asked), text)
    else:
        table.add(check, Verdict.OK, ", ".join([_DRIVER_LIBRARY, *packaged]))


def _opens(library: str) -> bool:
    """Whether a library can be opened, by its name or where NVIDIA's packages lie.

    TensorFlow looks in both places.
    """
    site = sysconfig.get_paths()["purelib"]
    packaged = glob.glob(os.path.join(site, "nvidia", "*", "lib", library))
    for name in (library, *packaged):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def check_work(table: Table, devices: list[str]) -> None:
    """Each device computes: a convolution, the first thing that needs cuDNN."""
    check = "GPU work"
    devices = [device for device in devices if "gpu" in device]
    if not devices:
        table.add(check, Verdict.UNCHECKED, "no GPU to try")
        return
    for device in devices:
        try:
            value = _convolve(device)
        except (tf.errors.OpError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            text = f"{device}: a convolution fails ({reason}); mend driver or libraries"
            table.add(check, Verdict.FAIL, text)
            return
        if value != 27:
            text = f"{device}: 3·3·3 ones add up to {value}; replace the GPU"
            table.add(check, Verdict.FAIL, text)
            return
    table.add(check, Verdict.OK, f"a convolution on each of {', '.join(devices)}")


def _convolve(device: str) -> float:
    with tf.device(device):
        image, kernel = tf.ones([1, 3, 3, 3]), tf.ones([3, 3, 3, 1])
        return float(tf.nn.conv2d(image, kernel, 1, "VALID")[0, 0, 0, 0])
