"""What cannot work in a cluster is refused before anything is created."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.errors import SeamlineError
from trainer.jobs.manifest import (
    GPU,
    QUEUE_LABEL,
    Object,
    expanded_arguments,
    job_of,
    main_container,
)
from trainer.recipe_checks import check_batch_size

_PLACEHOLDER = re.compile(r"YOUR_|@sha256:0{64}$")
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(
    r"[a-z0-9][\w./-]*(:\d+/[\w./-]+)?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?"
)
_DATA = re.compile(r"gs://[a-z0-9][\w./-]*|/[\w./-]*")


def refuse_mistakes(documents: Sequence[Object]) -> None:
    """Refuses what would fail in the cluster minutes later.

    Raises:
      SeamlineError: names the flag, the value and what to give.
    """
    job = job_of(documents)
    name, image = job["metadata"]["name"], main_container(job)["image"]
    limits = main_container(job)["resources"]["limits"]
    pods = job["spec"].get("completions", 1)
    longest = f"{name}-{pods - 1}" if job["spec"].get("completionMode") else name
    if not _LABEL.fullmatch(name) or len(longest) > 63:
        raise SeamlineError(
            f"--name={name}: use a-z, 0-9 and '-', a letter first, 63 at most with the "
            "number of a pod"
        )
    namespace = job["metadata"].get("namespace", "default")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise SeamlineError(f"--namespace={namespace}: use a-z, 0-9 and '-'")
    if not str(limits.get(GPU, "0")).isdecimal():
        raise SeamlineError(f"--gpus={limits[GPU]}: use 0 or more")
    if pods < 1:
        raise SeamlineError(f"--workers={pods}: use 1 or more")
    _refuse_head(job, image)
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL, "queue")
    if _PLACEHOLDER.search(queue) or not re.fullmatch(r"[a-z0-9][-.a-z0-9]*", queue):
        raise SeamlineError(f"--queue={queue}: not the name of a LocalQueue")
    _refuse_places(job)


def _refuse_head(job: Object, image: str) -> None:
    """Refuses what the head of a manifest may not say."""
    variables = main_container(job).get("env", [])
    data = [v.get("value", "") for v in variables if v["name"] == "SEAMLINE_DATA"]
    missing = [] if image and not _PLACEHOLDER.search(image) else [image]
    if missing or any(map(_PLACEHOLDER.search, data)):
        told = [*missing, *filter(_PLACEHOLDER.search, data)]
        fixes = ["--image=IMAGE@sha256:…"] * len(missing)
        fixes += ["--data=gs://BUCKET"] * (len(told) - len(missing))
        raise SeamlineError(
            f"{' and '.join(told) or '--image='}: not filled in; give "
            f"{' and '.join(fixes)}"
        )
    if not _IMAGE.fullmatch(image):
        raise SeamlineError(f"--image={image}: not a name such as REG/IMAGE@sha256:…")
    for value in data:
        if not _DATA.fullmatch(value):
            raise SeamlineError(
                f"--data={value}: give gs://BUCKET, or the folder of a volume that the "
                "manifest mounts"
            )


def refuse_unfit_batch(job: Object, batch_size: int) -> None:
    """Refuses a global batch that the replicas cannot share alike.

    Raises:
      SeamlineError: names the nearest that they can.
    """
    workers = job["spec"].get("completions", 1)
    gpus = int(main_container(job)["resources"]["limits"].get(GPU, 0))
    replicas = workers * max(gpus, 1)
    made_of = f" ({workers} × {max(gpus, 1)})"
    check_batch_size(batch_size, replicas, made_of=made_of, where=", given after --")


def _refuse_places(job: Object) -> None:
    """Refuses placeholders, results that go with the pod, and unfit strategies."""
    tokens = expanded_arguments(job)
    for token in filter(_PLACEHOLDER.search, tokens):
        raise SeamlineError(
            f"{token}: a placeholder; give --data=gs://BUCKET, or this flag after --"
        )
    for token in tokens:
        if not token.startswith("-"):
            raise SeamlineError(f"{token}: not a flag; give values as --FLAG=VALUE")
    values = dict(token.lstrip("-").partition("=")[::2] for token in tokens)
    trains = main_container(job)["command"][-1] == "trainer.task"
    flag = "run_dir" if trains else "records_dir"
    place = values.get(flag, "")
    if not place.startswith("gs://") and not any(
        f"{place}/".startswith(f"{folder}/") for folder in _kept_folders(job)
    ):
        raise SeamlineError(
            f"--{flag}={place}: would be lost with the pod; give --data=gs://BUCKET, "
            "or a manifest that mounts a volume there, as k8s/overlays/plain does"
        )
    workers, strategy = job["spec"].get("completions", 1), values.get("strategy")
    if trains and workers > 1 and strategy in ("one_device", "mirrored"):
        raise SeamlineError(
            f"--strategy={strategy}: each of {workers} workers would train alone; give "
            "--strategy=multi_worker"
        )
    if trains and workers == 1 and strategy == "multi_worker":
        raise SeamlineError(
            "--strategy=multi_worker: there is one worker; give --workers=2 or more, "
            "or --strategy=mirrored"
        )


def _kept_folders(job: Object) -> list[str]:
    """Where volumes are mounted that outlive a pod."""
    volumes = job["spec"]["template"]["spec"].get("volumes", [])
    kept = {v["name"] for v in volumes if "emptyDir" not in v}
    mounts = main_container(job).get("volumeMounts", [])
    return [m["mountPath"].rstrip("/") for m in mounts if m["name"] in kept]
