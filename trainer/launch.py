"""Jobs on Kubernetes from a laptop. No TensorFlow.

    python -m trainer.launch submit --image=IMAGE@sha256:… --name=NAME -- --epochs=50
    python -m trainer.launch status|logs|wait|delete NAME

`submit` patches the manifest and never rebuilds it. Exit codes of `wait`: 0 complete,
42 failed by a mistake that a retry cannot mend, 1 any other end.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from absl import flags
from urllib3.exceptions import HTTPError

from trainer.errors import SeamlineError
from trainer.flags import run

_IMAGE = flags.DEFINE_string("image", None, "image, best by digest")
_NAME = flags.DEFINE_string("name", None, "name of the Job")
_GPUS = flags.DEFINE_integer("gpus", None, "GPUs of the pod; 0: train on the CPU")
_NAMESPACE = flags.DEFINE_string("namespace", None, "default: the current context's")
_MANIFEST = flags.DEFINE_string("manifest", "k8s/train-job.yaml", "file with the Job")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the Job, create nothing")
_FOLLOW = flags.DEFINE_bool("follow", False, "logs: go on until the pod ends")

_GPU = "nvidia.com/gpu"
_PLACEHOLDER = re.compile(r"YOUR_|@sha256:0{64}$")
_LIMIT = {"_request_timeout": (10, 300)}  # seconds to connect, seconds of silence
_FIXES = {
    401: "log in again: the cluster does not accept these credentials",
    403: "ask for the right: kubectl auth can-i create jobs --namespace={namespace}",
    404: "see: kubectl get jobs --namespace={namespace}",
    409: "take another --name, or: python -m trainer.launch delete {name}",
}


def main(arguments: list[str]) -> int:
    """Runs one command; what stood after `--` comes last in `arguments`."""
    commands = {"status": status, "logs": logs, "wait": wait, "delete": delete}
    match arguments:
        case ["submit", *passed]:
            return submit(passed)
        case [command, name] if command in commands:
            client, namespace = _connect(_NAMESPACE.value)
            with _explained(name, namespace):
                return commands[command](client, name, namespace)
    usage = f"use: submit [-- --FLAG=VALUE …], or {'|'.join(commands)} NAME"
    raise SeamlineError(f"'{' '.join(arguments)}' is no command; {usage}")


def submit(passed: Sequence[str]) -> int:
    """Creates the Job, or prints it with `--dry_run`; all checks come first."""
    job = load_manifest(_MANIFEST.value)
    patch(job, passed)
    refuse_mistakes(job)
    if _DRY_RUN.value:
        print(yaml.safe_dump(job, sort_keys=False), end="")
        return 0
    name = job["metadata"]["name"]
    client, namespace = _connect(job["metadata"].get("namespace"))
    with _explained(name, namespace):
        create = client.BatchV1Api().create_namespaced_job
        create(namespace, job, field_validation="Strict", **_LIMIT)
    print(f"created Job {name} in namespace {namespace}")
    return 0


def load_manifest(path: str) -> dict[str, Any]:
    """The Job in a file, looked for from here, then beside the package."""
    place = Path(path)
    if not place.is_file():
        place = Path(__file__).parents[1] / path
    try:
        (job,) = yaml.safe_load_all(place.read_text("utf-8"))
        (container,) = job["spec"]["template"]["spec"]["containers"]
        _ = job["metadata"]["name"], container["image"], container["resources"]
        _ = container["command"][-1], container["args"]
    except OSError as error:
        raise SeamlineError(f"{path}: {error.strerror}; give --manifest") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        wanted = "one Job, one container with image, command, args, resources"
        raise SeamlineError(f"{place}: not {wanted}") from error
    return job


def patch(job: dict[str, Any], passed: Sequence[str]) -> None:
    """Puts values in their places; what is in `passed` replaces flags of that name."""
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    container["image"] = _IMAGE.value or container["image"]
    job["metadata"]["name"] = _NAME.value or job["metadata"]["name"]
    if _NAMESPACE.value:
        job["metadata"]["namespace"] = _NAMESPACE.value
    if _GPUS.value is not None:
        for amounts in container["resources"].values():
            amounts[_GPU] = str(_GPUS.value)
    if _GPUS.value == 0:  # keep off the nodes that are kept free for GPU work
        kept = [t for t in pod.get("tolerations", []) if t.get("key") != _GPU]
        pod["tolerations"] = kept
    given = {token.partition("=")[0] for token in passed}
    args = [arg for arg in container["args"] if arg.partition("=")[0] not in given]
    container["args"] = [*args, *passed]


def refuse_mistakes(job: dict[str, Any]) -> None:
    """Raises `SeamlineError` for what would fail in the cluster minutes later."""
    name = job["metadata"]["name"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    image, gpus = container["image"], container["resources"]["limits"].get(_GPU, "0")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise SeamlineError(f"--name={name}: use a-z, 0-9 and '-', 63 at most")
    if not gpus.isdecimal():
        raise SeamlineError(f"--gpus={gpus}: use 0 or more")
    if _PLACEHOLDER.search(image):
        raise SeamlineError(f"{image} is a placeholder; give --image=IMAGE@sha256:…")
    for token in filter(_PLACEHOLDER.search, container["args"]):
        raise SeamlineError(f"{token}: a placeholder; give your own after --")
    _refuse_unknown_flags(container["command"][-1], container["args"])
    if "@sha256:" not in image:
        print(f"note: {image} has no digest and may change", file=sys.stderr)


def _refuse_unknown_flags(module: str, arguments: Sequence[str]) -> None:
    """Parses `arguments` as the command in the pod will."""
    importlib.import_module(module)
    known = flags.FlagValues()
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        known[flag.name] = copy.deepcopy(flag)
    try:
        rest = known([module, *arguments])[1:]
    except flags.Error as error:
        raise SeamlineError(f"{error} (see: python -m {module} --help)") from error
    if rest:
        raise SeamlineError(f"{rest[0]}: not a flag; give values as --FLAG=VALUE")


def _connect(namespace: str | None) -> tuple[Any, str]:
    """The client, set to the current context, and the namespace to work in."""
    from kubernetes import client, config

    try:
        config.load_kube_config()
        context = config.list_kube_config_contexts()[1]["context"]
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        reason = str(error).splitlines()[0]
        fix = "point KUBECONFIG at a kubeconfig file"
        raise SeamlineError(f"no cluster: {reason}; {fix}") from error
    return client, namespace or context.get("namespace") or "default"


@contextlib.contextmanager
def _explained(name: str, namespace: str) -> Iterator[None]:
    """Turns what the cluster refuses into one line that says what to do."""
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        code, reason = error.status, error.reason
        with contextlib.suppress(TypeError, ValueError, KeyError):
            reason = json.loads(error.body)["message"]
        fix = _FIXES.get(code, "mend the manifest" if code < 500 else "try again later")
        fix = fix.format(namespace=namespace, name=name)
        raise SeamlineError(f"{name}: {reason} ({code}); {fix}") from error
    except ValueError as error:  # the client looks through a Job before it sends it
        reason = " ".join(str(error).split("\n")[1:3])
        raise SeamlineError(f"{name}: {reason}; change the manifest") from error
    except HTTPError as error:
        raise SeamlineError(f"{error}; check: kubectl cluster-info") from error


def status(client: Any, name: str, namespace: str) -> int:
    """Prints the state of the Job and of its pods, and what they wait for."""
    job = client.BatchV1Api().read_namespaced_job(name, namespace, **_LIMIT)
    end, active, failed = _end(job), job.status.active or 0, job.status.failed or 0
    state = end.type.lower() if end else "running" if active else "waiting"
    print(f"{name}: {state} (active {active}, failed {failed}){_reason(end)}")
    for pod in _pods(client, name, namespace):
        states = [c.state for c in pod.status.container_statuses or [] if c.state]
        stops = [state.waiting or state.terminated for state in states]
        stops += [c for c in pod.status.conditions or [] if c.status == "False"]
        reason = _reason(next(filter(None, stops), None))
        print(f"  {pod.metadata.name}: {pod.status.phase}{reason}")
    return 0


def _reason(cause: Any) -> str:
    parts = (getattr(cause, "reason", None), getattr(cause, "message", None))
    return "".join(f": {part}" for part in parts if part)


def _pods(client: Any, name: str, namespace: str) -> list[Any]:
    """The Job's pods, the oldest first."""
    label = f"batch.kubernetes.io/job-name={name}"
    list_pods = client.CoreV1Api().list_namespaced_pod
    pods = list_pods(namespace, label_selector=label, **_LIMIT).items
    return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)


def logs(client: Any, name: str, namespace: str) -> int:
    """Prints what the Job's newest pod wrote; each retry is a pod of its own."""
    client.BatchV1Api().read_namespaced_job(name, namespace, **_LIMIT)
    pods = [pod.metadata.name for pod in _pods(client, name, namespace)]
    if not pods:
        raise SeamlineError(f"{name}: no pod yet; see: kubectl describe job {name}")
    read = client.CoreV1Api().read_namespaced_pod_log
    options = {"follow": _FOLLOW.value, "_preload_content": False}
    for piece in read(pods[-1], namespace, **options).stream():
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return 0


def wait(client: Any, name: str, namespace: str) -> int:
    """Waits for the end of the Job; returns 0, 42 or 1 as the module's text says."""
    from kubernetes import watch

    batch = client.BatchV1Api()
    one = {"namespace": namespace, "field_selector": f"metadata.name={name}"}
    options = {**one, "timeout_seconds": 240, **_LIMIT}
    while True:
        batch.read_namespaced_job(name, namespace, **_LIMIT)
        # A watch starts with the Job as it is. It breaks now and then (a proxy, a new
        # control plane); the line above tells then whether cluster and Job are there.
        with contextlib.suppress(client.ApiException, HTTPError):
            for event in watch.Watch().stream(batch.list_namespaced_job, **options):
                if event["type"] == "DELETED":
                    print(f"{name}: deleted before its end")
                    return 1
                if end := _end(event["object"]):
                    print(f"{name}: {end.type.lower()}{_reason(end)}")
                    told = f"{end.reason} {end.message}"
                    mistake = re.match(r"PodFailurePolicy .*exit code 42\b", told)
                    return 0 if end.type == "Complete" else 42 if mistake else 1
        time.sleep(1)


def _end(job: Any) -> Any:
    """The condition that ended the Job, or None while it goes on."""
    true = [c for c in job.status.conditions or [] if c.status == "True"]
    return next((c for c in true if c.type in ("Complete", "Failed")), None)


def delete(client: Any, name: str, namespace: str) -> int:
    """Deletes the Job and its pods; the run directory stays."""
    # Foreground: the name is taken until the pods have saved and ended, so that no
    # second Job of that name writes to the same run directory meanwhile.
    remove = client.BatchV1Api().delete_namespaced_job
    remove(name, namespace, propagation_policy="Foreground", **_LIMIT)
    print(f"deleting Job {name}; its pods save and end first")
    return 0


if __name__ == "__main__":
    run(main)
