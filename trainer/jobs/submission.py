"""Creates the objects of a manifest: all are tried first, then made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.jobs import cluster
from trainer.jobs.cluster import LIMIT, Cluster
from trainer.jobs.manifest import Object, job_of

_SHARED = ("ServiceAccount", "PersistentVolumeClaim")
"""Made once; later Jobs use them too."""
_NICETIES = ("Role", "RoleBinding")
"""Without them training works and `status` shows less."""


def create(found: Cluster, documents: Sequence[Object]) -> list[str]:
    """Creates all objects; what belongs to the Job is deleted together with it.

    Every object is first tried with the server's dry run, so that what the cluster
    refuses leaves nothing behind.

    Returns:
      What could not be had and is not needed, in words.
    """
    job = job_of(documents)
    others = [d for d in documents if d is not job]
    notes, refused = [], []
    for document in [*others, job]:
        if problem := _try(found, document):
            notes.append(problem)
            refused.append(document)
    shared = [d for d in others if d["kind"] in _SHARED]
    for document in (d for d in shared if d not in refused):
        _make(found, document, exists_is_fine=True)
    made = _make(found, job)
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": made.metadata.uid,
    }
    try:
        for document in others:
            if document in shared or document in refused:
                continue
            document["metadata"]["ownerReferences"] = [owner]
            if problem := _make_own(found, document):
                notes.append(problem)
    except Exception:
        # Half a Job would hold GPUs and wait.
        remove = found.batch.delete_namespaced_job
        name = job["metadata"]["name"]
        remove(name, found.namespace, propagation_policy="Background", **LIMIT)
        raise
    return notes


def _call(found: Cluster, kind: str) -> Callable[..., Any]:
    calls = {
        "Job": found.batch.create_namespaced_job,
        "Service": found.core.create_namespaced_service,
        "ServiceAccount": found.core.create_namespaced_service_account,
        "PersistentVolumeClaim": (found.core.create_namespaced_persistent_volume_claim),
        "Role": found.rbac.create_namespaced_role,
        "RoleBinding": found.rbac.create_namespaced_role_binding,
    }
    if kind not in calls:
        raise ValueError(f"\nkind {kind} is not one of {', '.join(calls)}")
    return calls[kind]


def _try(found: Cluster, document: Object) -> str | None:
    """Asks whether the cluster would take an object; words if not, and that is fine."""
    from kubernetes.client import ApiException

    kind = document["kind"]
    create, options = _call(found, kind), {"field_validation": "Strict", **LIMIT}
    try:
        create(found.namespace, document, dry_run="All", **options)
    except ApiException as error:
        if error.status == 409 and kind != "Job" and kind != "Service":
            return None
        if error.status == 404 and kind == "RoleBinding":
            # Who has no right to bind any Role is told that this one is not there yet.
            return None
        if error.status == 403 and kind in _NICETIES:
            return _without(kind, error)
        if error.status == 403 and kind == "ServiceAccount":
            name = document["metadata"]["name"]
            return _look_for_account(found, name, error)
        raise
    return None


def _without(kind: str, error: Exception) -> str:
    told = cluster.message(error)
    return f"{told}; without the {kind} `launch status` shows no progress"


def _look_for_account(found: Cluster, name: str, refusal: Exception) -> str:
    """Who may not create the account may find it made by someone else."""
    from kubernetes.client import ApiException

    try:
        found.read(found.core.read_namespaced_service_account, name, found.namespace)
    except ApiException as error:
        if error.status != 403:
            raise refusal from error
        return f"cannot see whether there is a ServiceAccount {name}; pods need it"
    return f"the ServiceAccount {name} is used as it is"


def _make(found: Cluster, document: Object, exists_is_fine: bool = False) -> Any:
    from kubernetes.client import ApiException

    create = _call(found, document["kind"])
    try:
        return create(found.namespace, document, field_validation="Strict", **LIMIT)
    except ApiException as error:
        if error.status != 409 or not exists_is_fine:
            raise
    return None


def _make_own(found: Cluster, document: Object) -> str | None:
    """Makes what belongs to the Job; words if it cannot be had and is not needed."""
    from kubernetes.client import ApiException

    kind = document["kind"]
    try:
        _make(found, document, exists_is_fine=kind in _NICETIES)
    except ApiException as error:
        if error.status not in (403, 404) or kind not in _NICETIES:
            raise
        return _without(kind, error)
    return None
