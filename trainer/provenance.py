"""Where numbers come from: the source that made them, and the GPUs."""

from __future__ import annotations

import os
import subprocess

import trainer


def commit() -> str | None:
    """The commit of a source checkout; None for an installed package."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(trainer.__file__)))
    # A file in a second work tree, a folder else.
    if not os.path.exists(os.path.join(root, ".git")):
        return None
    command = ["git", "-C", root, "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def gpus() -> list[str]:
    """Names of all GPUs that TensorFlow sees."""
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
