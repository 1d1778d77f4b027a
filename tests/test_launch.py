"""`trainer.launch` against a Kubernetes API on loopback, by the official client."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.desk import BUCKET, IMAGE, JOBS, ROOT, Desk, container_state
from tests.kubectl import documents
from tests.kubernetes_api import Server, refusal


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def check(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["initContainers"][0]


def printed(told: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert told.returncode == 0, told.stderr
    return list(yaml.safe_load_all(told.stdout))


def values(one: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: v["value"] for v in one["env"] if "value" in v}


# submit


def test_submit_creates_the_manifest_with_only_the_given_values_changed(
    desk: Desk,
) -> None:
    told = desk.submit("--gpus=2", "--", "--epochs=3", "--weight_decay=0.01")
    assert told.returncode == 0, told.stderr
    assert told.stdout == "created Job first in namespace default\n"
    (expected,) = documents("train-job.yaml")
    for given in (container(expected), check(expected)):
        given["image"] = IMAGE
        given["env"][0]["value"], given["env"][1]["value"] = "gs://photos", "2"
        for amounts in given["resources"].values():
            amounts["nvidia.com/gpu"] = "2"
        kept = [token for token in given["args"] if not token.startswith("--epochs=")]
        given["args"] = [*kept, "--epochs=3", "--weight_decay=0.01"]
    stored = desk.stored()
    assert stored["spec"] == expected["spec"]
    head = {"image": IMAGE, "data": "gs://photos", "gpus": "2"}
    assert stored["metadata"]["annotations"] == {
        f"seamline/{key}": value for key, value in head.items()
    }
    assert all("fieldValidation=Strict" in path for path in desk.calls("POST"))


def test_the_job_gets_an_account_and_a_role_for_itself_alone(desk: Desk) -> None:
    assert desk.submit().returncode == 0
    base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    role = desk.server.call("GET", f"{base}/roles/first-progress")
    (rule,) = role["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["first"], ["get", "patch"])
    binding = desk.server.call("GET", f"{base}/rolebindings/first-progress")
    assert binding["roleRef"]["name"] == "first-progress"
    (subject,) = binding["subjects"]
    assert subject["name"] == "seamline"
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    account = desk.server.call("GET", f"{accounts}/seamline")
    # With the Job go what is its own; the account stays for the next Job.
    uid = desk.stored()["metadata"]["uid"]
    for owned in (role, binding):
        (owner,) = owned["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Job", uid)
    assert "ownerReferences" not in account["metadata"]


def test_a_second_job_uses_the_account_that_is_there(desk: Desk) -> None:
    assert desk.submit().returncode == 0
    told = desk.submit("--name=second")
    assert (told.returncode, told.stderr) == (0, "")


def test_several_workers_get_a_service_of_their_own(desk: Desk) -> None:
    told = desk.submit("--workers=3", "--gpus=8")
    assert told.returncode == 0, told.stderr
    job = desk.stored()
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
    wanted = {"SEAMLINE_WORKERS": "3", "SEAMLINE_SERVICE": "first"}
    for one in (container(job), check(job)):
        assert wanted.items() <= values(one).items()
    service = desk.server.call("GET", "/api/v1/namespaces/default/services/first")
    label = "batch.kubernetes.io/job-name"
    assert service["spec"]["selector"] == {label: "first"}
    assert job["spec"]["template"]["spec"]["subdomain"] == "first"
    (owner,) = service["metadata"]["ownerReferences"]
    assert owner["uid"] == job["metadata"]["uid"]


def test_a_conversion_is_shared_by_as_many_pods_as_asked(desk: Desk) -> None:
    told = desk.submit("--manifest=k8s/convert-job.yaml", "--workers=6")
    assert told.returncode == 0, told.stderr
    job = desk.stored()
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 6
    assert values(container(job))["SEAMLINE_WORKERS"] == "6"
    assert not [path for path in desk.calls("POST") if "roles" in path]


def test_a_queue_is_a_label_of_the_job(desk: Desk) -> None:
    (job, *_) = printed(desk.submit("--dry_run", "--queue=team.gold"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team.gold"


def test_dry_run_prints_all_objects_and_talks_to_no_cluster(desk: Desk) -> None:
    found = printed(desk.submit("--dry_run", "--namespace=vision"))
    kinds = [document["kind"] for document in found]
    assert kinds == ["Job", "ServiceAccount", "Role", "RoleBinding"]
    assert {d["metadata"]["namespace"] for d in found} == {"vision"}
    assert found[0]["metadata"]["name"] == "first"
    assert container(found[0])["image"] == IMAGE
    assert desk.server.api.requests_seen == []


def test_what_dry_run_prints_is_what_submit_creates(desk: Desk) -> None:
    (job, *_) = printed(desk.submit("--dry_run"))
    assert desk.submit().returncode == 0
    assert desk.stored()["spec"] == job["spec"]


def test_kubectl_takes_what_dry_run_prints(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(desk.submit("--dry_run", "--workers=2").stdout, "utf-8")
    desk.kubectl("apply", "--validate=strict", "--filename", str(path))
    assert desk.stored()["spec"]["completions"] == 2


def test_without_gpus_the_pod_asks_for_none_and_keeps_off_gpu_nodes(
    desk: Desk,
) -> None:
    (job, *_) = printed(desk.submit("--dry_run", "--gpus=0"))
    for one in (container(job), check(job)):
        amounts = one["resources"].values()
        assert {given["nvidia.com/gpu"] for given in amounts} == {"0"}
    assert job["spec"]["template"]["spec"]["tolerations"] == []


def test_the_manifest_is_found_beside_the_package_from_any_folder(
    desk: Desk, tmp_path: Path
) -> None:
    desk.environment["PYTHONPATH"] = str(ROOT)
    command = (sys.executable, "-m", "trainer.launch", "submit", "--dry_run")
    told = subprocess.run(
        [*command, f"--image={IMAGE}", BUCKET],
        cwd=tmp_path,
        env=desk.environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert printed(told)[0]["metadata"]["name"] == "seamline-train"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image="], "YOUR_REGISTRY/seamline@sha256:0000"),
        (["--image=Registry/UPPER CASE"], "--image=Registry/UPPER CASE: not a name"),
        (["--image=r/x@sha256:12ab"], "--image=r/x@sha256:12ab: not a name"),
        (["--data=gs://YOUR_BUCKET"], "gs://YOUR_BUCKET/records: a placeholder"),
        (["--data=/data"], "--run_dir=/data/runs/first: would be lost with the pod"),
        (["--", "--run_dir=runs/x"], "--run_dir=runs/x: would be lost with the pod"),
        (["--", "--run_dir=/scratch/x"], "--run_dir=/scratch/x: would be lost"),
        (["--gpus=-1"], "--gpus=-1: use 0 or more"),
        (["--workers=0"], "--workers=0"),
        (
            ["--workers=2", "--manifest=k8s/train-job.yaml"],
            "--workers=2: the pods of this manifest have no numbers; give "
            "--manifest=k8s/train-multiworker.yaml",
        ),
        (
            ["--workers=2", "--", "--strategy=mirrored"],
            "--strategy=mirrored: each of 2 workers would train alone",
        ),
        (
            ["--workers=1", "--manifest=k8s/train-multiworker.yaml"],
            "--strategy=multi_worker: there is one worker",
        ),
        (["--queue=My Queue"], "--queue=My Queue: not the name of a LocalQueue"),
        (["--namespace=My_Space"], "--namespace=My_Space: use a-z"),
        (["--name=First_Run"], "--name=First_Run: use a-z, 0-9 and '-'"),
        (["--name=1st"], "a letter first"),
        (["--name=" + "a" * 64], "63 at most"),
        (["--workers=11", "--name=" + "a" * 61], "63 at most"),
        (["--", "--epoch=3"], "Unknown command line flag 'epoch'"),
        (["--", "--image=other"], "Unknown command line flag 'image'"),
        (["--", "--epochs=many"], "--epochs=many"),
        (["--", "--strategy=tpu"], "--strategy=tpu"),
        (["--", "epochs=3"], "epochs=3: not a flag"),
        (["--manifest=k8s/absent.yaml"], "k8s/absent.yaml: No such file or directory"),
        (["--manifest=pyproject.toml"], "pyproject.toml: not YAML"),
        (["--manifest=k8s/service-account.yaml"], "has 0 Jobs"),
        (["--manifest=LICENSE"], "LICENSE: "),
    ],
)
def test_a_mistake_is_refused_before_anything_is_created(
    desk: Desk, arguments: list[str], message: str
) -> None:
    told = desk.submit(*arguments)
    assert told.returncode == 42, told.stderr
    assert message in told.stderr
    assert told.stderr.startswith("error: ")
    assert told.stderr.count("\n") == 1
    assert desk.server.api.requests_seen == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metadata.name", None),
        ("spec.template.spec.containers", []),
        ("spec.template.spec.containers.0.image", None),
        ("spec.template.spec.containers.0.command", None),
        ("spec.template.spec.containers.0.args", "--epochs=3"),
        ("spec.template.spec.containers.0.resources.limits", None),
        ("spec.template.spec.containers.0.resources.requests", ["cpu"]),
    ],
)
def test_a_manifest_that_lacks_something_is_told_what(
    desk: Desk, tmp_path: Path, place: str, value: Any
) -> None:
    (job,) = documents("train-job.yaml")
    *parents, last = place.split(".")
    found: Any = job
    for part in parents:
        found = found[int(part) if part.isdecimal() else part]
    found[last] = value
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    told = desk.submit(f"--manifest={path}")
    assert told.returncode == 42
    assert told.stderr == (
        f"error: {path}: its Job has no {place}; compare k8s/train-job.yaml\n"
    )


def test_a_misspelt_field_is_named_before_anything_is_created(
    desk: Desk, tmp_path: Path
) -> None:
    (job, service) = documents("train-multiworker.yaml")
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump_all([job, service]), "utf-8")
    told = desk.submit(f"--manifest={path}")
    assert told.returncode == 42
    assert "spec.backofLimit Extra inputs are not permitted; change" in told.stderr
    assert desk.calls("POST") == []


def test_an_image_without_a_digest_is_noted_and_allowed(desk: Desk) -> None:
    told = desk.submit("--dry_run", "--image=registry.example/seamline:1.0")
    assert told.returncode == 0
    assert told.stderr.startswith("note: registry.example/seamline:1.0 has no digest")


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
    assert sorted(told.stdout.splitlines()) == [
        "--- goes on in pod first-b",
        "killed",
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
        "launch._refuse_unknown_flags('trainer.task', ['--epochs=3']);"
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
