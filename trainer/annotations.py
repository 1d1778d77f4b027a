"""Progress written to the annotations of the Kubernetes Job that a pod belongs to.

`trainer.launch status` and `kubectl describe job` show it. Outside a Job nothing
happens. `trainer.engine.announcing` calls it for the training loop.
"""

from __future__ import annotations

import datetime
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.progress import duration

log = logging.getLogger("seamline")

PREFIX = "seamline/"
EVERY_S = 30.0
"""The least time between two patches: the cluster's API is everybody's."""

Annotations = Mapping[str, str | None]

_TIMEOUT_S = (3, 5)
_GIVE_UP = (401, 403, 404)


class JobAnnotations:
    """Patches the annotations of one Job, now and then.

    Training never waits for the cluster: a patch is sent by a thread, and none while
    another is on its way. Whatever goes wrong is told once in the log; where the pod
    may not patch its Job, nothing more is tried.

    Args:
      send: annotations -> None, patches the Job; None takes one away; raises what it
        likes.
      clock: seconds that never go back.
    """

    def __init__(
        self,
        send: Callable[[Annotations], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._clock = send, clock
        self._next = clock()
        self._thread: threading.Thread | None = None
        self._latest: dict[str, str | None] = {}
        self._told = self._over = False

    def report(
        self,
        *,
        step: int,
        total: int,
        epoch: int | None = None,
        epochs: int | None = None,
        eta: float | None = None,
        mean_iou: float | None = None,
        phase: str = "training",
    ) -> None:
        """Says how far the work is; most calls only take note.

        Args:
          step, total: steps done, and all.
          epoch, epochs: epochs done, and all.
          eta: seconds left.
          mean_iou: 0..1, of the best validation so far; NaN and None are left out.
          phase: one word for what is done now.
        """
        of_all = "" if epochs is None else f"/{epochs}"
        self._latest = {
            "step": f"{step}/{total}",
            "epoch": None if epoch is None else f"{epoch}{of_all}",
            "eta": None if eta is None else duration(eta),
            "mean-iou": f"{mean_iou:.3f}" if _is_number(mean_iou) else None,
        }
        if not self._over and self._clock() >= self._next and not self._is_sending():
            self._start({"phase": phase, **self._latest})

    def close(self, phase: str = "done", timeout_s: float = 10.0) -> None:
        """Says the last word, and the latest report, however short ago one was sent.

        Args:
          phase: the word.
          timeout_s: how long to wait for a patch on its way, and again for this one.
        """
        self._wait(timeout_s)
        if not self._over and not self._is_sending():
            self._start({**self._latest, "phase": phase, "eta": None})
            self._wait(timeout_s)
        self._over = True

    def _is_sending(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _wait(self, timeout_s: float) -> None:
        if self._thread:
            self._thread.join(timeout_s)

    def _start(self, values: dict[str, str | None]) -> None:
        self._next = self._clock() + EVERY_S
        now = datetime.datetime.now(datetime.timezone.utc)
        values["updated"] = now.isoformat(timespec="seconds")
        named = {f"{PREFIX}{key}": text for key, text in values.items()}
        thread = threading.Thread(target=self._patch, args=[named], daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the pod has as many threads as it may have
            self._tell(error)
        else:
            self._thread = thread

    def _patch(self, annotations: Annotations) -> None:
        try:
            self._send(annotations)
        except Exception as error:
            # Progress is a nicety: no cluster may stop a training.
            self._over = getattr(error, "status", None) in _GIVE_UP
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            log.info("No progress on the Job: %s", reason)


def of_this_job(environment: Mapping[str, str]) -> JobAnnotations:
    """For the Job that `SEAMLINE_JOB_NAME` and `SEAMLINE_NAMESPACE` name.

    Without them, and in workers other than the first, reports go nowhere.
    """
    name = environment.get("SEAMLINE_JOB_NAME", "")
    namespace = environment.get("SEAMLINE_NAMESPACE", "")
    if not name or not namespace or environment.get("JOB_COMPLETION_INDEX", "0") != "0":
        return JobAnnotations(lambda annotations: None)
    return JobAnnotations(_Patcher(name, namespace))


class _Patcher:
    """Patches a Job by KUBECONFIG where that is set, else by the pod's own account."""

    def __init__(self, name: str, namespace: str) -> None:
        self._name, self._namespace = name, namespace
        self._batch: Any = None

    def __call__(self, annotations: Annotations) -> None:
        if self._batch is None:
            self._batch = _connect()
        self._batch.patch_namespaced_job(
            self._name,
            self._namespace,
            {"metadata": {"annotations": annotations}},
            _request_timeout=_TIMEOUT_S,
        )


def _connect() -> Any:
    # Half a second, in the thread that sends.
    from kubernetes import client, config

    settings = client.Configuration()
    # Not `load_config`: it prints to the log of every pod that this might not work.
    if place := os.environ.get("KUBECONFIG"):
        config.load_kube_config(config_file=place, client_configuration=settings)
    else:
        config.load_incluster_config(client_configuration=settings)
    settings.retries = False
    return client.BatchV1Api(client.ApiClient(settings))


def _is_number(value: float | None) -> bool:
    return value is not None and value == value
