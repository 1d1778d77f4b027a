"""`trainer.launch` against a Kubernetes API on loopback, by the official client."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.desk import JOBS, Desk, container_state
from tests.kubernetes_api import Server, refusal


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


# what the cluster refuses

_FORBIDDEN = (
    'jobs.batch is forbidden: User "ada" cannot create resource "jobs" in API group '
    '"batch" in the namespace "default"'
)
_QUOTA = (
    'jobs.batch "first" is forbidden: exceeded quota: team, requested: count/jobs=1'
)
_SECURITY = 'admission webhook "policy.example" denied the request: no digest'


@pytest.mark.parametrize(
    ("code", "said", "exit_code", "fix"),
    [
        (401, "Unauthorized", 42, "log in again"),
        (
            403,
            _FORBIDDEN,
            42,
            "ask for the right to create jobs; check: kubectl auth can-i create jobs "
            "--namespace=default",
        ),
        (403, _QUOTA, 42, "see: kubectl describe quota --namespace=default"),
        (400, _SECURITY, 42, "a rule of this cluster forbids it"),
        (404, 'namespaces "vision" not found', 42, "kubectl create namespace default"),
        (409, "exists", 42, "python -m trainer.launch delete first"),
        (422, "Invalid", 42, "mend the manifest"),
        (429, "too many", 75, "the cluster is busy; try again later"),
        (500, "etcd", 75, "try again later"),
        (503, "starting", 75, "try again later"),
    ],
)
def test_a_refusal_of_the_cluster_is_one_line_with_the_fix(
    desk: Desk, code: int, said: str, exit_code: int, fix: str
) -> None:
    desk.server.api.refuse["POST", "jobs"] = refusal(code, "Reason", said)
    told = desk.submit()
    assert told.returncode == exit_code
    assert told.stderr.startswith(f"error: first: {said} ({code}); ")
    assert fix in told.stderr
    assert told.stderr.count("\n") == 1
    assert desk.calls("POST") == []


def test_a_cluster_of_another_certificate_is_not_tried_again(
    desk: Desk, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    listener = socket.create_server(("localhost", 0))

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                context.wrap_socket(connection, server_side=True)
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    config = yaml.safe_load(Path(desk.environment["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"] = {
        "server": f"https://localhost:{listener.getsockname()[1]}",
        "certificate-authority": str(tmp_path / "ca.pem"),
    }
    Path(desk.environment["KUBECONFIG"]).write_text(yaml.safe_dump(config))
    told = desk.launch("status")
    assert told.returncode == 42
    assert "certificate" in told.stderr
    assert "compare server and certificate-authority-data" in told.stderr
    assert "trying again" not in told.stderr


@pytest.mark.parametrize("command", ["logs", "wait", "delete"])
def test_a_command_without_the_name_of_a_job_says_what_it_needs(
    desk: Desk, command: str
) -> None:
    told = desk.launch(command)
    assert told.returncode == 42
    assert f"error: {command} needs the NAME of a Job" in told.stderr


def test_a_name_that_is_taken_is_refused(desk: Desk) -> None:
    desk.create()
    before = len(desk.calls("POST"))
    told = desk.submit("--workers=2")
    assert told.returncode == 42
    assert "(409); take another --name, or: " in told.stderr
    assert len(desk.calls("POST")) == before


def test_a_service_that_cannot_be_made_leaves_no_job_behind(desk: Desk) -> None:
    gone = [refusal(500, "InternalError", "etcd") for _ in range(1)]
    desk.server.api.refuse["POST", "services"] = [_pass_first(), *gone]
    told = desk.submit("--workers=2")
    assert told.returncode == 75
    assert "first: etcd (500); try again later" in told.stderr
    told = desk.launch("status", "first")
    assert "(404)" in told.stderr


def _pass_first() -> Any:
    """The dry run is answered well."""
    from aiohttp import web

    return web.json_response({"kind": "Service", "apiVersion": "v1"}, status=201)


def test_who_may_not_make_roles_gets_the_job_and_a_note(desk: Desk) -> None:
    said = 'roles is forbidden: User "ada" cannot create resource "roles"'
    desk.server.api.refuse["POST", "roles"] = refusal(403, "Forbidden", said)
    told = desk.submit()
    assert told.returncode == 0
    assert "without the Role `launch status` shows no progress" in told.stderr
    assert told.stdout == "created Job first in namespace default\n"


_NO_ROLE = 'roles.rbac.authorization.k8s.io "first-progress" not found'


def test_who_may_bind_only_roles_that_are_there_gets_the_binding(desk: Desk) -> None:
    desk.server.api.refuse["POST", "rolebindings"] = refusal(404, "NotFound", _NO_ROLE)
    told = desk.submit()
    assert (told.returncode, told.stderr) == (0, "")
    made = [path.partition("?")[0] for path in desk.calls("POST")]
    assert made[-2].endswith("/roles")
    assert made[-1].endswith("/rolebindings")


def test_a_role_that_is_refused_and_so_cannot_be_bound_costs_no_job(desk: Desk) -> None:
    said = 'roles is forbidden: User "ada" cannot create resource "roles"'
    desk.server.api.refuse["POST", "roles"] = refusal(403, "Forbidden", said)
    missing = [refusal(404, "NotFound", _NO_ROLE) for _ in range(2)]
    desk.server.api.refuse["POST", "rolebindings"] = missing
    told = desk.submit()
    assert told.returncode == 0, told.stderr
    notes = told.stderr.splitlines()
    assert [note.partition("; ")[0] for note in notes] == [
        f"note: {said}",
        f"note: {_NO_ROLE}",
    ]
    assert desk.calls("DELETE") == []
    assert desk.stored()["metadata"]["name"] == "first"


def test_who_may_not_make_accounts_uses_one_that_is_there_and_needs_one(
    desk: Desk,
) -> None:
    said = 'serviceaccounts is forbidden: cannot create resource "serviceaccounts"'
    answer = refusal(403, "Forbidden", said)
    desk.server.api.refuse["POST", "serviceaccounts"] = answer
    told = desk.submit()
    assert told.returncode == 42
    assert "ask for the right to create serviceaccounts" in told.stderr
    assert desk.calls("POST") == []

    desk.kubectl("apply", "--filename", "k8s/service-account.yaml")
    answer = refusal(403, "Forbidden", said)
    desk.server.api.refuse["POST", "serviceaccounts"] = answer
    told = desk.submit()
    assert told.returncode == 0, told.stderr
    assert told.stderr == "note: the ServiceAccount seamline is used as it is\n"


@pytest.mark.parametrize("command", ["status", "logs", "wait", "delete"])
def test_a_job_that_is_not_there_is_named(desk: Desk, command: str) -> None:
    told = desk.launch(command, "second")
    assert told.returncode == 42
    assert told.stderr.startswith("error: second: ")
    assert "(404); see: kubectl get jobs --namespace=default" in told.stderr


def test_without_a_kubeconfig_the_error_says_where_to_point(desk: Desk) -> None:
    desk.environment["KUBECONFIG"] = "/nowhere/kubeconfig"
    told = desk.launch("status", "first")
    assert told.returncode == 42
    assert told.stderr.startswith("error: no cluster: ")
    assert "point KUBECONFIG at a kubeconfig file" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"- a list\n", b"words", b"\xff\xfe"])
def test_a_file_of_another_kind_is_no_kubeconfig(
    desk: Desk, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    desk.environment["KUBECONFIG"] = str(path)
    told = desk.launch("status", "first")
    assert told.returncode == 42
    assert told.stderr == (
        f"error: no cluster: {path} is not a kubeconfig; point KUBECONFIG at a "
        "kubeconfig file\n"
    )


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with Server() as server:
        desk = Desk(server, tmp_path)
    told = desk.submit()
    assert told.returncode == 75
    assert "the cluster does not answer: " in told.stderr
    assert "Connection refused" in told.stderr
    assert told.stderr.endswith("check: kubectl cluster-info\n")
    assert told.stderr.count("\n") == 1


def test_an_unknown_command_shows_the_known_ones(desk: Desk) -> None:
    told = desk.launch("stop", "first")
    assert told.returncode == 42
    assert "'stop first' is no command" in told.stderr
    assert "status|logs|wait|delete NAME" in told.stderr


@pytest.mark.parametrize(
    ("command", "name"),
    [("delete", ""), ("delete", "."), ("delete", "a/b"), ("status", "First")],
)
def test_what_cannot_be_the_name_of_a_job_is_not_asked_for(
    desk: Desk, command: str, name: str
) -> None:
    told = desk.launch(command, name)
    assert told.returncode == 42
    assert told.stderr == (
        f"error: '{name}' cannot be the name of a Job; python -m trainer.launch status "
        "lists all\n"
    )
    assert desk.server.api.requests_seen == []


# status, logs, wait, delete


def test_status_is_a_table_of_the_jobs_own_annotations(desk: Desk) -> None:
    desk.create(
        phase="training", step="120/600", epoch="3/50", eta="2h10m", mean_iou="0.416"
    )
    desk.patch_status({"active": 1, "failed": 1})
    desk.add_pod("first-a", 1, {"phase": "Running"})
    told = desk.launch("status", "first")
    head, row, _, state, pod = told.stdout.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert head.split() == (
        "NAME PHASE STEP EPOCH ETA MEAN IOU RESTARTS UPDATED".split()
    )
    assert row.split() == "first training 120/600 3/50 2h10m 0.416 1 -".split()
    assert state == "first: running"
    assert pod == "  first-a: Running"
    overview = desk.launch("status").stdout.splitlines()
    assert overview == [head, row]


def test_without_jobs_the_overview_says_so(desk: Desk) -> None:
    told = desk.launch("status")
    assert told.stdout == "no Jobs of Seamline in namespace default\n"


def test_logs_without_following_print_what_is_there(desk: Desk) -> None:
    desk.create()
    told = desk.launch("logs", "first", "--nofollow")
    assert told.returncode == 42
    assert "no pod has started; see: launch status first" in told.stderr
    desk.add_pod("first-a", 1, {"phase": "Failed"})
    desk.add_pod("first-b", 9, {"phase": "Running"})
    desk.server.api.logs = {"first-b": "épochs 1/3\n", "first-a": "killed\n"}
    told = desk.launch("logs", "first", "--nofollow")
    assert told.stdout.splitlines() == [
        "killed",
        "--- goes on in pod first-b",
        "épochs 1/3",
    ]


def _when_watched(desk: Desk, action: Any) -> threading.Thread:
    """Does something once a watch waits for news."""

    def follow() -> None:
        if desk.server.api.watching.wait(40):
            action()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def test_wait_sees_the_end_that_comes_while_it_watches(desk: Desk) -> None:
    desk.create()
    helper = _when_watched(desk, lambda: desk.end("Complete"))
    told = desk.launch("wait", "first")
    helper.join(10)
    assert (told.returncode, told.stdout) == (0, "first: complete\n")


def test_wait_ends_when_the_job_is_deleted(desk: Desk) -> None:
    desk.create()
    helper = _when_watched(desk, lambda: desk.server.call("DELETE", f"{JOBS}/first"))
    told = desk.launch("wait", "first")
    helper.join(10)
    assert (told.returncode, told.stdout) == (1, "first: deleted before its end\n")


def test_the_exit_code_of_the_last_pod_is_that_of_wait(desk: Desk) -> None:
    desk.create()
    state = container_state(terminated={"exitCode": 137, "reason": "OOMKilled"})
    desk.add_pod("first-a", 1, {"phase": "Failed", "containerStatuses": [state]})
    desk.end("Failed", "BackoffLimitExceeded", "too many failures")
    told = desk.launch("wait", "first")
    assert told.returncode == 137
    line, pod = told.stdout.splitlines()
    assert line == "first: failed: BackoffLimitExceeded: too many failures"
    assert pod.startswith("  first-a: OOMKilled, exit 137 → used more memory than")


def test_delete_frees_the_name_only_when_the_pods_have_ended(desk: Desk) -> None:
    desk.create()
    assert desk.launch("delete", "first").returncode == 0
    ((_, path, body),) = [
        call for call in desk.server.api.requests_seen if call[0] == "DELETE"
    ]
    asked = path + json.dumps(body)
    assert "Foreground" in asked
    assert path.startswith(f"{JOBS}/first")


def test_launching_imports_no_tensorflow_and_is_quick_to_start(desk: Desk) -> None:
    code = (
        "import sys, time; start = time.process_time(); from trainer import launch;"
        "assert time.process_time() - start < 1;"
        "early = {'kubernetes', 'tensorflow', 'keras'} & set(sys.modules);"
        "assert not early, early;"
        "launch._parsed('trainer.task', ['--epochs=3']);"
        "late = {'tensorflow', 'keras'} & set(sys.modules); assert not late, late"
    )
    told = desk.run(sys.executable, "-c", code)
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("command", ["status", "logs", "wait", "delete"])
def test_no_command_imports_tensorflow(desk: Desk, command: str) -> None:
    desk.create()
    desk.end("Complete")
    desk.add_pod("first-a", 1, {"phase": "Succeeded"})
    code = (
        "import sys; sys.argv = ['launch', *sys.argv[1:]]\n"
        "from trainer import launch\n"
        "try:\n    launch.run(launch.main)\n"
        "finally:\n    late = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "    assert not late, late"
    )
    told = desk.run(sys.executable, "-c", code, command, "first")
    assert told.returncode == 0, told.stderr
