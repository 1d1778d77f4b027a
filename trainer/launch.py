"""Jobs on Kubernetes from a laptop. No TensorFlow.

    python -m trainer.launch submit --image=IMAGE@sha256:… --name=NAME -- --epochs=50
    python -m trainer.launch status [NAME]
    python -m trainer.launch logs|wait|delete NAME

`submit` patches the manifest and never rebuilds it. Exit codes of `wait`: 0 complete,
42 failed by a mistake that a retry cannot mend, else that of the last pod, or 1.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from absl import flags

from trainer import recipes
from trainer.errors import SeamlineError
from trainer.flags import run
from trainer.jobs import cluster, following, manifest, refusals, status, submission
from trainer.jobs.cluster import Cluster

_IMAGE = flags.DEFINE_string("image", None, "image, best by digest")
_NAME = flags.DEFINE_string("name", None, "name of the Job")
_GPUS = flags.DEFINE_integer(
    "gpus", None, "GPUs of each pod (default: the manifest's, 1); 0: train on the CPU"
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "pods that work together (default: the manifest's)"
)
_QUEUE = flags.DEFINE_string("queue", None, "Kueue's LocalQueue to wait in")
_DATA = flags.DEFINE_string("data", None, "gs://BUCKET or the folder of a volume")
_NAMESPACE = flags.DEFINE_string("namespace", None, "default: the current context's")
_MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "file with the Job (k8s/train-job.yaml; with several --workers: "
    "k8s/train-multiworker.yaml)",
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print all objects, create nothing")
_FOLLOW = flags.DEFINE_bool("follow", True, "logs: go on until the Job ends")


def main(arguments: list[str]) -> int:
    """Runs one command; what stood after `--` comes last in `arguments`."""
    commands = {"status": show, "logs": logs, "wait": following.wait, "delete": delete}
    match arguments:
        case ["submit", *passed]:
            return submit(passed)
        case ["status"]:
            found = cluster.connect(_NAMESPACE.value)
            with cluster.explained("status", found.namespace):
                print("\n".join(status.overview(found)))
            return 0
        case [command, name] if command in commands:
            _refuse_no_name(name)
            found = cluster.connect(_NAMESPACE.value)
            with cluster.explained(name, found.namespace):
                return commands[command](found, name)
        case [command] if command in commands:
            raise SeamlineError(
                f"{command} needs the NAME of a Job; python -m trainer.launch status "
                "lists all"
            )
    usage = f"use: submit [-- --FLAG=VALUE …], or {'|'.join(commands)} NAME"
    raise SeamlineError(f"'{' '.join(arguments)}' is no command; {usage}")


def _refuse_no_name(name: str) -> None:
    # To a cluster "" and "." mean all Jobs of the namespace, which `delete` would end.
    if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name):
        raise SeamlineError(
            f"'{name}' cannot be the name of a Job; python -m trainer.launch status "
            "lists all"
        )


def submit(passed: Sequence[str]) -> int:
    """Creates the Job, or prints it with `--dry_run`; all checks come first."""
    documents = _patched(passed)
    job = manifest.job_of(documents)
    image = manifest.main_container(job)["image"]
    if "@sha256:" not in image:
        print(f"note: {image} has no digest and may change", file=sys.stderr)
    if _DRY_RUN.value:
        print(yaml.safe_dump_all(documents, sort_keys=False), end="")
        return 0
    name = job["metadata"]["name"]
    found = cluster.connect(job["metadata"].get("namespace"))
    with cluster.explained(name, found.namespace):
        notes = submission.create(found, documents)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"created Job {name} in namespace {found.namespace}")
    return 0


def _patched(passed: Sequence[str]) -> list[manifest.Object]:
    """The objects to create, checked.

    Raises:
      SeamlineError: what cannot work.
    """
    several = (_WORKERS.value or 1) > 1
    default = "k8s/train-multiworker.yaml" if several else "k8s/train-job.yaml"
    documents = manifest.load_job(_MANIFEST.value or default)
    changes = manifest.Changes(
        image=_IMAGE.value or None,
        name=_NAME.value,
        namespace=_NAMESPACE.value,
        gpus=_GPUS.value,
        workers=_WORKERS.value,
        queue=_QUEUE.value,
        data=_DATA.value,
        arguments=passed,
    )
    manifest.patch(documents, changes)
    refusals.refuse_mistakes(documents)
    job = manifest.job_of(documents)
    module = manifest.main_container(job)["command"][-1]
    known = _parsed(module, manifest.expanded_arguments(job))
    if module == "trainer.task":
        recipe = recipes.resolve(str(known["recipe"].value), _recipe_values(known))
        refusals.refuse_unfit_batch(job, recipe.batch_size)
    manifest.add_identity(documents, manifest.load("k8s/service-account.yaml"))
    return documents


def _parsed(module: str, arguments: Sequence[str]) -> flags.FlagValues:
    """The flags of the command in the pod, parsed as it will.

    Raises:
      SeamlineError: an unknown flag, or a value of the wrong kind.
    """
    if module not in sys.modules:
        # The pod's command has a flag of this name too: processes of a conversion.
        delattr(flags.FLAGS, _WORKERS.name)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise SeamlineError(f"{module}: the manifest's command is not ours") from error
    known = flags.FlagValues()
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        known[flag.name] = copy.deepcopy(flag)
    try:
        rest = known([module, *arguments])[1:]
    except flags.Error as error:
        raise SeamlineError(f"{error} (see: python -m {module} --help)") from error
    if rest:
        raise SeamlineError(f"{rest[0]}: not a flag; give values as --FLAG=VALUE")
    return known


def _recipe_values(known: flags.FlagValues) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(recipes.Recipe)]
    return {name: known[name].value for name in names if known[name].present}


def show(found: Cluster, name: str) -> int:
    """Prints the progress of the Job, the state of its pods, what they wait for."""
    print("\n".join(status.describe(found, name)))
    return 0


def logs(found: Cluster, name: str) -> int:
    """Prints what the Job's pods write, with --nofollow only what is there."""
    if not following.LogPrinter(found, name, follow=_FOLLOW.value).run():
        raise SeamlineError(f"{name}: no pod has started; see: launch status {name}")
    return 0


def delete(found: Cluster, name: str) -> int:
    """Deletes the Job and its pods; the run directory stays."""
    # Foreground: the name is taken until the pods have saved and ended, so that no
    # second Job of that name writes to the same run directory meanwhile.
    remove = found.batch.delete_namespaced_job
    remove(name, found.namespace, propagation_policy="Foreground", **cluster.LIMIT)
    print(f"deleting Job {name}; its pods save and end first")
    return 0


if __name__ == "__main__":
    run(main)
