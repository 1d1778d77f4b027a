"""Manifests: loaded from k8s/ and patched by the launcher.

A manifest is a list of objects with one Job among them. It is patched, never rebuilt.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import SeamlineError

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PREFIX = "seamline/"
"""Of the annotations of a Job that are ours."""

_VARIABLE = re.compile(r"\$\((\w+)\)")
_INSTEAD_OF = {
    "images_dir": ("dataset",),
    "train_ids": ("split_fraction", "split_seed"),
    "val_ids": ("split_fraction", "split_seed"),
    "recipe": ("batch_size",),
}
"""Flags that say what others of the manifest would say otherwise."""
_OF_EACH_POD = ("num_hosts", "shard_index")
_NEEDED = {
    "metadata.name": str,
    "spec.template.spec.containers": list,
    "spec.template.spec.containers.0.image": str,
    "spec.template.spec.containers.0.command": list,
    "spec.template.spec.containers.0.args": list,
    "spec.template.spec.containers.0.resources.requests": dict,
    "spec.template.spec.containers.0.resources.limits": dict,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """What a person wants otherwise; None leaves what the manifest says.

    Attributes:
      image, name, namespace: of the Job.
      gpus: of each pod.
      workers: pods of an Indexed Job.
      queue: Kueue's LocalQueue.
      data: `gs://BUCKET` or a mounted folder.
      arguments: replace those of the same flag; others are added.
    """

    image: str | None = None
    name: str | None = None
    namespace: str | None = None
    gpus: int | None = None
    workers: int | None = None
    queue: str | None = None
    data: str | None = None
    arguments: Sequence[str] = ()


def load(path: str) -> list[Object]:
    """The objects in a file, looked for from here, then beside the package.

    Raises:
      SeamlineError: it cannot be read, or is not YAML.
    """
    place = Path(path)
    if not place.is_file():
        place = Path(__file__).parents[2] / path
    try:
        found = list(yaml.safe_load_all(place.read_text("utf-8")))
    except OSError as error:
        raise SeamlineError(f"{path}: {error.strerror}; give --manifest") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SeamlineError(f"{place}: not YAML: {reason}") from error
    # Through JSON: what YAML's aliases share becomes each one's own.
    return json.loads(json.dumps([x for x in found if x], default=str))


def load_job(path: str) -> list[Object]:
    """As `load`, for a file with one Job that has what is patched.

    Raises:
      SeamlineError: names what is missing.
    """
    documents = load(path)
    jobs = [x for x in documents if isinstance(x, dict) and x.get("kind") == "Job"]
    if len(jobs) != 1 or not all(isinstance(x, dict) for x in documents):
        raise SeamlineError(f"{path}: has {len(jobs)} Jobs; give a manifest with one")
    for name, kind in _NEEDED.items():
        found: Any = jobs[0]
        for part in name.split("."):
            try:
                found = found[int(part) if part.isdecimal() else part]
            except (KeyError, IndexError, TypeError):
                found = None
        if not found or not isinstance(found, kind):
            raise SeamlineError(
                f"{path}: its Job has no {name}; compare k8s/train-job.yaml"
            )
    if len(jobs[0]["spec"]["template"]["spec"]["containers"]) > 1:
        raise SeamlineError(f"{path}: its pods have several containers; give one")
    return documents


def job_of(documents: Sequence[Object]) -> Object:
    """The one Job."""
    return next(document for document in documents if document["kind"] == "Job")


def main_container(job: Object) -> Object:
    """The container that does the work."""
    return job["spec"]["template"]["spec"]["containers"][0]


def _containers(job: Object) -> Iterator[Object]:
    """Those that do the same work with the same arguments: trainer and preflight."""
    main, pod = main_container(job), job["spec"]["template"]["spec"]
    yield main
    for container in pod.get("initContainers", []):
        if container.get("args") == main["args"]:
            yield container


def patch(documents: list[Object], changes: Changes) -> None:
    """Puts values in their places.

    Raises:
      SeamlineError: the manifest has no place for a value.
    """
    job = job_of(documents)
    containers = list(_containers(job))
    head = job["metadata"].setdefault("annotations", {})
    if changes.image is not None:
        for container in containers:
            container["image"] = changes.image
        head[f"{PREFIX}image"] = changes.image
    if changes.data is not None:
        _set_variable(containers, "SEAMLINE_DATA", changes.data.rstrip("/"), "--data")
        head[f"{PREFIX}data"] = changes.data.rstrip("/")
    if changes.gpus is not None:
        _set_gpus(job, containers, str(changes.gpus))
    if changes.workers is not None:
        _set_workers(job, containers, changes.workers)
    if changes.queue is not None:
        job["metadata"].setdefault("labels", {})[QUEUE_LABEL] = changes.queue
    if changes.name is not None:
        _rename(documents, containers, changes.name)
    if changes.namespace is not None:
        for document in documents:
            document["metadata"]["namespace"] = changes.namespace
    args = _merged(main_container(job)["args"], changes.arguments)
    for container in containers:
        container["args"] = args


def _merged(args: Sequence[str], given: Sequence[str]) -> list[str]:
    """The manifest's arguments, but those that are given otherwise."""
    # One dash does as well as two, and of two values the last one counts.
    told = {_flag(token): re.sub(r"^-+(?=\w)", "--", token) for token in given}
    gone = {*told, *(x for flag in told for x in _INSTEAD_OF.get(flag, ()))}
    for token in args:
        if _flag(token) in told and "$(" in token and _flag(token) in _OF_EACH_POD:
            raise SeamlineError(
                f"{told[_flag(token)]}: each pod gets its own; give --workers"
            )
    return [*(x for x in args if _flag(x) not in gone), *told.values()]


def _flag(token: str) -> str:
    """The name of the flag in `--name=value`; other tokens are their own."""
    return re.sub(r"^--?(\w+)(=.*)?$", r"\1", token, flags=re.DOTALL)


def _set_variable(
    containers: list[Object], name: str, value: str, flag: str | None = None
) -> None:
    for container in containers:
        places = [v for v in container.get("env", []) if v["name"] == name]
        if flag and not places:
            raise SeamlineError(f"{flag}={value}: this manifest has no {name} to set")
        for place in places:
            place["value"] = value


def _set_gpus(job: Object, containers: list[Object], count: str) -> None:
    for container in containers:
        for amounts in container["resources"].values():
            amounts[GPU] = count
    _set_variable(containers, "SEAMLINE_GPUS", count)
    job["metadata"]["annotations"][f"{PREFIX}gpus"] = count
    pod = job["spec"]["template"]["spec"]
    if count == "0":  # keep off the nodes that are kept free for GPU work
        kept = [t for t in pod.get("tolerations", []) if t.get("key") != GPU]
        pod["tolerations"] = kept


def _set_workers(job: Object, containers: list[Object], count: int) -> None:
    spec = job["spec"]
    if count < 1:
        raise SeamlineError(f"--workers={count}: use 1 or more")
    if spec.get("completionMode") != "Indexed":
        if count != 1:
            raise SeamlineError(
                f"--workers={count}: the pods of this manifest have no numbers; give "
                "--manifest=k8s/train-multiworker.yaml"
            )
        return
    spec["completions"] = spec["parallelism"] = count
    _set_variable(containers, "SEAMLINE_WORKERS", str(count), "--workers")
    job["metadata"]["annotations"][f"{PREFIX}workers"] = str(count)


def _rename(documents: list[Object], containers: list[Object], name: str) -> None:
    job = job_of(documents)
    job["metadata"]["name"] = name
    for document in documents:
        if document["kind"] == "Service":
            document["metadata"]["name"] = name
            document["spec"]["selector"] = {"batch.kubernetes.io/job-name": name}
            job["spec"]["template"]["spec"]["subdomain"] = name
            _set_variable(containers, "SEAMLINE_SERVICE", name)


def add_identity(documents: list[Object], identity: Sequence[Object]) -> None:
    """Adds who the pods are, with a Role for this one Job, where it writes progress."""
    job = job_of(documents)
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    if not pod.get("serviceAccountName"):
        return
    # Those of a manifest may be for a Job of another name.
    named = {"ServiceAccount", "Role", "RoleBinding"}
    documents[:] = [document for document in documents if document["kind"] not in named]
    writes = pod.get("automountServiceAccountToken")
    for document in identity:
        if document["kind"] == "ServiceAccount":
            document["metadata"]["name"] = pod["serviceAccountName"]
        elif not writes:
            continue
        elif document["kind"] == "Role":
            document["metadata"]["name"] = f"{name}-progress"
            document["rules"][0]["resourceNames"] = [name]
        elif document["kind"] == "RoleBinding":
            document["metadata"]["name"] = f"{name}-progress"
            document["roleRef"]["name"] = f"{name}-progress"
            document["subjects"][0]["name"] = pod["serviceAccountName"]
        if "namespace" in job["metadata"]:
            document["metadata"]["namespace"] = job["metadata"]["namespace"]
        documents.append(document)


def expanded_arguments(job: Object) -> list[str]:
    """The arguments of the main container, as Kubernetes expands them in pod 0."""
    container = main_container(job)
    values = {"JOB_COMPLETION_INDEX": "0"}
    for variable in container.get("env", []):
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        if "value" in variable:
            values[variable["name"]] = str(variable["value"])
        elif path.endswith("job-name']"):
            values[variable["name"]] = job["metadata"]["name"]
    return [
        _VARIABLE.sub(lambda found: values.get(found[1], found[0]), str(token))
        for token in container["args"]
    ]
