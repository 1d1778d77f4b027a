"""A Kubernetes API on loopback: kmock keeps the objects, kubernetes-validate refuses.

Real kubectl and the official client work against it. There is no controller: a test
plays the part of the Job controller and writes pods and status itself.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import threading
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import kmock
import kubernetes_validate
import yaml
from aiohttp import web
from kmock._internal import enums

_DOCUMENTS = {
    "/apis/batch/v1": ("batch", {"Job": "jobs"}),
    "/api/v1": (
        "",
        {
            "Pod": "pods",
            "Service": "services",
            "ServiceAccount": "serviceaccounts",
            "PersistentVolumeClaim": "persistentvolumeclaims",
        },
    ),
    "/apis/rbac.authorization.k8s.io/v1": (
        "rbac.authorization.k8s.io",
        {"Role": "roles", "RoleBinding": "rolebindings"},
    ),
}
_GROUPS = ("", "batch", "apps", "events.k8s.io", "rbac.authorization.k8s.io")


def refusal(code: int, reason: str, message: str) -> web.Response:
    """The answer of an API server that says no."""
    return web.json_response(_failure(code, reason, message), status=code)


def _failure(code: int, reason: str, message: str) -> dict[str, Any]:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**body, "message": message, "reason": reason, "code": code}


def _openapi(base: str, group: str, kinds: dict[str, str]) -> dict[str, Any]:
    """As much of a schema document as kubectl asks for before it applies something."""
    names = ("dryRun", "fieldValidation", "fieldManager")
    query = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in names]
    paths = {}
    for kind, plural in kinds.items():
        paths[f"{base}/namespaces/{{namespace}}/{plural}/{{name}}"] = {
            "patch": {
                "parameters": query,
                "responses": {},
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": "v1",
                    "kind": kind,
                },
            }
        }
    info = {"title": "loopback", "version": "v1"}
    return {
        "openapi": "3.0.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": {}},
    }


def _selected(item: dict[str, Any], params: Any) -> bool:
    """Whether an object fits `labelSelector` and `fieldSelector` (only `=`)."""
    labels = item["metadata"].get("labels") or {}
    for term in filter(None, (params.get("labelSelector") or "").split(",")):
        key, _, value = term.partition("=")
        if labels.get(key) != value:
            return False
    for term in filter(None, (params.get("fieldSelector") or "").split(",")):
        key, _, value = term.partition("=")
        found: Any = item
        for part in key.split("."):
            found = (found or {}).get(part)
        if found != value:
            return False
    return True


@attrs.define(kw_only=True)
class KubernetesApi(kmock.KubernetesEmulator):
    """kmock's emulator with what kubectl and the official client need besides."""

    version: str = "1.37"
    logs: dict[str, str] = attrs.field(factory=dict)
    """What each pod wrote, by its name, or by POD/CONTAINER."""
    breaks: dict[str, int] = attrs.field(factory=dict)
    """Lines after which a followed log breaks off, by pod; once."""
    refuse: dict[tuple[str, str], web.Response | list[web.Response]] = attrs.field(
        factory=dict
    )
    """Answers by method (WATCH, LOG) and plural, for the next such requests."""
    watch_errors: list[tuple[int, str, str] | None] = attrs.field(factory=list)
    """How the next watches end at once: with an ERROR event, or cut off by None."""
    waiting_to_start: dict[str, str] = attrs.field(factory=dict)
    """What is said of the trainer container of a pod that has not started it."""
    watching: threading.Event = attrs.field(factory=threading.Event)
    """Set once a watch has sent what there is and waits for news."""
    requests_seen: list[tuple[str, str, Any]] = attrs.field(factory=list)
    """Method, path with query, body."""
    _versions: Any = attrs.field(factory=lambda: itertools.count(1), init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.resources.load_bundled()
        # The bundled metrics.k8s.io would shadow pods.
        for resource in list(self.resources):
            if resource.group not in _GROUPS:
                del self.resources[resource]
        links = {b[1:]: {"serverRelativeURL": f"/openapi/v3{b}"} for b in _DOCUMENTS}
        self["get /openapi/v3"] << {"paths": links}
        for base, (group, kinds) in _DOCUMENTS.items():
            self[f"get /openapi/v3{base}"] << _openapi(base, group, kinds)

    async def _handle(self, request: Any) -> web.StreamResponse:
        raw, resource, action = request._raw_request, request.resource, request.action
        if resource is None:
            return await super()._handle(request)
        self.requests_seen.append((raw.method, raw.path_qs, request.data))
        method = "WATCH" if action == enums.action.WATCH else raw.method
        method = "LOG" if request.subresource == "log" else method
        if answer := self._refusal(method, resource.plural):
            return answer
        if method == "LOG":
            return await self._log(request)
        if action == enums.action.WATCH:
            return await self._stream(request)
        if action == enums.action.CREATE:
            if answer := self._admit(request):
                return answer
        elif action == enums.action.UPDATE and isinstance(request.data, dict):
            metadata = request.data.setdefault("metadata", {})
            metadata["resourceVersion"] = str(next(self._versions))
        return await super()._handle(request)

    def _refusal(self, method: str, plural: str) -> web.Response | None:
        answers = self.refuse.pop((method, plural), None)
        if not isinstance(answers, list):
            return answers
        if answers[1:]:
            self.refuse[method, plural] = answers[1:]
        return answers[0]

    async def _log(self, request: Any) -> web.StreamResponse:
        """A pod's log; with `follow` until the pod has ended, or is cut off."""
        pod, params = request.name, request.params
        container = params.get("container")
        key = f"{pod}/{container}" if f"{pod}/{container}" in self.logs else pod
        text = self.waiting_to_start.get(pod, "")
        if container != "trainer":
            text = f'container "{container}" in pod "{pod}" is waiting to start'
        if text and container is not None and key == pod:
            return refusal(400, "BadRequest", text)
        response = web.StreamResponse()
        await response.prepare(request._raw_request)
        follow, stamped = (
            params.get(name, "").lower() == "true" for name in ("follow", "timestamps")
        )
        sent, limit = 0, self.breaks.pop(pod, None) if follow else None
        while True:
            ended = self._has_ended(request)
            for line in self.logs.get(key, "").splitlines(True)[sent:]:
                moment = f"2030-01-01T00:00:00.{sent:09d}Z "
                stamp = moment if stamped else ""
                await response.write(f"{stamp}{line}".encode())
                sent += 1
                if sent == limit:
                    request._raw_request.transport.close()
                    return response
            if ended or not follow or key != pod:
                break
            await asyncio.sleep(0.02)
        await response.write_eof()
        return response

    def _has_ended(self, request: Any) -> bool:
        for (resource, namespace, name), item in self._objects.items():
            if (resource.plural, namespace, name) == (
                *("pods", request.namespace, request.name),
            ):
                phase = item.last.get("status", {}).get("phase")
                return item.deleted or phase in ("Succeeded", "Failed")
        return True

    def _admit(self, request: Any) -> web.Response | None:
        """Validates and completes a new object; an answer here is the last word."""
        body = request.data
        try:
            kubernetes_validate.validate(body, self.version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(map(str, error.path))
            message = f"strict decoding error: {place}: {error.message}"
            return refusal(400, "BadRequest", message)
        now = datetime.datetime.now(datetime.timezone.utc)
        body["metadata"].setdefault("namespace", request.namespace)
        body["metadata"].setdefault("creationTimestamp", f"{now:%Y-%m-%dT%H:%M:%SZ}")
        body["metadata"]["uid"] = str(uuid.uuid4())
        body.setdefault("status", {})
        if request.params.get("dryRun") == "All":
            if self._is_there(request.resource, body["metadata"]):
                text = f'"{body["metadata"]["name"]}" already exists'
                return refusal(409, "AlreadyExists", text)
            return web.json_response(body, status=201)
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        return None

    def _is_there(self, resource: Any, metadata: dict[str, Any]) -> bool:
        wanted = (resource, metadata["namespace"], metadata["name"])
        return any(
            key == wanted and not item.deleted for key, item in self._objects.items()
        )

    async def _stream(self, request: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request._raw_request)
        if self.watch_errors:
            if error := self.watch_errors.pop(0):
                event = {"type": "ERROR", "object": _failure(*error)}
                await response.write(json.dumps(event).encode() + b"\n")
            request._raw_request.transport.close()
            return response
        async for event in self._serve_watch(request):
            await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
        return response

    async def _serve_version(self, request: Any) -> Any:
        document = await super()._serve_version(request)
        document["groupVersion"] = document["groupVersion"].lstrip("/")
        return document

    async def _serve_list(self, request: Any) -> Any:
        found = await super()._serve_list(request)
        items = [item for item in found["items"] if _selected(item, request.params)]
        kind = f"{self.resources[request.resource].kind}List"
        return {**self._header(request, kind), "items": items}

    def _header(self, request: Any, kind: str) -> dict[str, Any]:
        group, version = request.resource.group, request.resource.version
        return {
            "kind": kind,
            "apiVersion": f"{group}/{version}".lstrip("/"),
            "metadata": {"resourceVersion": str(next(self._versions))},
        }

    async def _serve_watch(self, request: Any) -> AsyncIterator[Any]:
        seconds = float(request.params.get("timeoutSeconds") or 60)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        events = super()._serve_watch(request).__aiter__()
        await anext(events)  # kmock's sign that the headers are sent
        async with self._lock:
            before = sum(
                key[0] == request.resource
                and request.namespace in (None, key[1])
                and not item.deleted
                for key, item in self._objects.items()
            )
        wants_mark = request.params.get("sendInitialEvents") == "true"
        while True:
            if wants_mark and before == 0:
                wants_mark = False
                mark = self._header(request, self.resources[request.resource].kind)
                key = "k8s.io/initial-events-end"
                mark["metadata"]["annotations"] = {key: "true"}
                yield {"type": "BOOKMARK", "object": mark}
            left = end - loop.time()
            following = asyncio.ensure_future(anext(events))
            if before == 0:
                # Runs after the first step of `following`, which waits for news then.
                loop.call_soon(self.watching.set)
            before -= 1
            try:
                event = await asyncio.wait_for(following, left)
            except (asyncio.TimeoutError, StopAsyncIteration):
                return
            if _selected(event["object"], request.params):
                yield event


class Server:
    """`with Server() as server`: the API at `server.url`, its state in `server.api`."""

    api: KubernetesApi
    url: str

    def __enter__(self) -> Server:
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        self._thread.start()
        assert self._ready.wait(10), "the loopback API did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with KubernetesApi() as self.api, kmock.Server(self.api) as server:
            self.url = str(server.url).rstrip("/")
            self._ready.set()
            await self._stop.wait()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; returns the object in the answer."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/merge-patch+json"}
            if method == "PATCH"
            else {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def kubeconfig(self, folder: Path, namespace: str = "default") -> Path:
        """Writes a kubeconfig file that points here."""
        context = {"cluster": "loopback", "user": "nobody", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "loopback",
            "clusters": [{"name": "loopback", "cluster": {"server": self.url}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "loopback", "context": context}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config), "utf-8")
        return path
