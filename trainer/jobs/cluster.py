"""The connection to a cluster: what it refuses is told in one line with the fix."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from urllib3.exceptions import HTTPError, MaxRetryError

from trainer.errors import SeamlineError, Unavailable

Result = TypeVar("Result")

LIMIT = {"_request_timeout": (10, 60)}
"""Seconds to connect, seconds of silence."""

_PAUSES_S = (0.5, 1.0, 2.0)
_PATIENT_PAUSES_S = (1.0, 2.0, 4.0, 8.0, *(15.0,) * 40)
"""Ten minutes: a control plane of one machine is away for so long when upgraded."""

_UNTRUSTED = "compare server and certificate-authority-data in the kubeconfig"
_DENIED = re.compile(r'cannot (\w+) resource "([\w/]+)"')
_FIXES = {
    400: "mend the manifest",
    401: "log in again: the cluster does not accept these credentials",
    404: "see: kubectl get jobs --namespace={namespace}",
    409: "take another --name, or: python -m trainer.launch delete {name}",
    422: "mend the manifest",
    429: "the cluster is busy; try again later",
}


class Cluster:
    """A cluster and the namespace to work in.

    Attributes:
      batch, core, rbac: the official client's groups.
      pause: seconds -> None, waits; tests need not.
    """

    def __init__(
        self, namespace: str, pause: Callable[[float], None] = time.sleep
    ) -> None:
        from kubernetes import client

        self.batch = client.BatchV1Api()
        self.core = client.CoreV1Api()
        self.rbac = client.RbacAuthorizationV1Api()
        self.namespace, self.pause = namespace, pause
        self._pauses: tuple[float, ...] = _PAUSES_S

    def be_patient(self) -> None:
        """From now on waits minutes for a cluster that is out of order."""
        self._pauses = _PATIENT_PAUSES_S

    def read(self, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Calls what changes nothing, and again while the cluster is out of order."""
        for number, seconds in enumerate(self._pauses):
            try:
                return call(*args, **options, **LIMIT)
            except Exception as error:
                if not may_pass(error):
                    raise
                if number == 0:
                    minutes = max(round(sum(self._pauses) / 60), 1)
                    told = f"note: {message(error)}; trying again, {minutes} min at "
                    print(f"{told}most", file=sys.stderr, flush=True)
            self.pause(seconds)
        return call(*args, **options, **LIMIT)

    def job(self, name: str) -> Any:
        """The Job as it is now."""
        return self.read(self.batch.read_namespaced_job, name, self.namespace)

    def jobs(self) -> list[Any]:
        """All Jobs of Seamline in the namespace, the oldest first."""
        label = "app.kubernetes.io/name=seamline"
        call = self.batch.list_namespaced_job
        found = self.read(call, self.namespace, label_selector=label).items
        return sorted(found, key=lambda job: job.metadata.creation_timestamp)

    def pods(self, name: str) -> list[Any]:
        """The Job's pods, the oldest first."""
        label = f"batch.kubernetes.io/job-name={name}"
        call = self.core.list_namespaced_pod
        found = self.read(call, self.namespace, label_selector=label).items
        return sorted(found, key=lambda pod: pod.metadata.creation_timestamp)

    def warnings(self, job: Any) -> list[Any]:
        """The cluster's warnings about a Job itself, the newest last.

        None where they may not be read: they are a nicety.
        """
        from kubernetes.client import ApiException

        field = f"involvedObject.uid={job.metadata.uid}"
        call = self.core.list_namespaced_event
        try:
            found = self.read(call, self.namespace, field_selector=field).items
        except ApiException as error:
            if error.status != 403:
                raise
            return []
        return [event for event in found if event.type == "Warning"]


def connect(namespace: str | None) -> Cluster:
    """The cluster of kubectl's current context.

    Raises:
      SeamlineError: there is none.
    """
    from kubernetes import client, config

    try:
        config.load_kube_config()
        settings = client.Configuration.get_default_copy()
        settings.retries = False  # `read` tries again, and warns nobody meanwhile
        client.Configuration.set_default(settings)
        context = config.list_kube_config_contexts()[1]["context"]
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise SeamlineError(_no_cluster(str(error).splitlines()[0])) from error
    except (TypeError, ValueError) as error:  # the client looks at no file's kind
        place = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise SeamlineError(_no_cluster(f"{place} is not a kubeconfig")) from error
    return Cluster(namespace or context.get("namespace") or "default")


def _no_cluster(reason: str) -> str:
    return f"no cluster: {reason}; point KUBECONFIG at a kubeconfig file"


def may_pass(error: Exception) -> bool:
    """Whether the same call may work later."""
    from kubernetes.client import ApiException

    if _is_untrusted(error):
        return False
    if isinstance(error, ApiException):
        # 410: a watch asked for what the cluster no longer remembers.
        return error.status in (0, 410, 429) or error.status >= 500
    return isinstance(error, HTTPError)


def _is_untrusted(error: Exception) -> bool:
    """Whether the cluster's certificate is not the one that is trusted."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


@contextlib.contextmanager
def explained(name: str, namespace: str) -> Iterator[None]:
    """Turns what the cluster refuses into one line that says what to do.

    Raises:
      Unavailable: the cluster does not answer or is out of order.
      SeamlineError: anything else that it refuses.
    """
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        told = f"{name}: {message(error)} ({error.status})"
        if _is_untrusted(error):
            raise SeamlineError(f"{told}; {_UNTRUSTED}") from error
        if may_pass(error):
            fix = _FIXES.get(error.status, "try again later")
            raise Unavailable(f"{told}; {fix}") from error
        raise SeamlineError(f"{told}; {_fix(error, name, namespace)}") from error
    except ValueError as error:  # the client looks through an object before it sends it
        reason = " ".join(" ".join(str(error).split("\n")[1:3]).split())
        reason = reason.partition(" [type=")[0] or str(error)
        raise SeamlineError(f"{name}: {reason}; change the manifest") from error
    except HTTPError as error:
        cause = error.reason if isinstance(error, MaxRetryError) else error
        told = " ".join(str(cause).split())
        if _is_untrusted(error):
            raise SeamlineError(f"{name}: {told}; {_UNTRUSTED}") from error
        raise Unavailable(
            f"{name}: the cluster does not answer: {told}; check: kubectl cluster-info"
        ) from error


def message(error: Any) -> str:
    """What the cluster says about a refusal, in one line."""
    told = getattr(error, "reason", None) or str(error) or "no reason given"
    with contextlib.suppress(AttributeError, TypeError, ValueError, KeyError):
        told = json.loads(error.body)["message"]
    return " ".join(str(told).split())


def _fix(error: Any, name: str, namespace: str) -> str:
    told = message(error)
    if "exceeded quota" in told:
        fix = "see: kubectl describe quota --namespace={namespace}; ask for more or "
        fix += "delete a Job"
    elif "admission webhook" in told or "violates PodSecurity" in told:
        fix = "a rule of this cluster forbids it; mend the manifest or ask who runs it"
    elif error.status == 404 and "namespaces" in told:
        fix = "create it: kubectl create namespace {namespace}"
    elif error.status == 403:
        verb, resource = "create", "jobs"
        if found := _DENIED.search(told):
            verb, resource = found.groups()
        fix = f"ask for the right to {verb} {resource}; check: kubectl auth can-i "
        fix += f"{verb} {resource} --namespace={{namespace}}"
    else:
        fix = _FIXES.get(error.status, "mend the manifest")
    return fix.format(namespace=namespace, name=name)
