"""Every manifest is valid for each Kubernetes in use, and means what it should."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests import manifest_checks as checks
from tests.kubectl import BUILDS, JOBS, documents
from tests.manifest_checks import Faults, Job, Object, main_of, of_kind, pod_of

ROOT = Path(__file__).parents[1]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
ORIGINS = [*JOBS, *BUILDS]


def job_of(origin: str) -> Job:
    """The one Job of a file or build."""
    (job,) = of_kind(documents(origin), "Job")
    return job


def together(origin: str) -> list[Object]:
    """What is applied for a Job: its file, and who its pods are."""
    own = documents(origin)
    return own if "+" in origin else [*own, *documents("service-account.yaml")]


def set_at(path: str, value: Any) -> Callable[[Job], None]:
    """Plants a fault; `path` such as `spec/backoffLimit` (~ for /), None removes."""

    def plant(job: Job) -> None:
        parts = path.split("/")
        *parents, last = [
            int(p) if p.isdecimal() else p.replace("~", "/") for p in parts
        ]
        place: Any = job
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return plant


def add_argument(token: str) -> Callable[[Job], None]:
    return lambda job: pod_of(job)["containers"][0]["args"].append(token)


POD = "spec/template/spec"
MAIN = f"{POD}/containers/0"
CHECK = f"{POD}/initContainers/0"
RULES = "spec/podFailurePolicy/rules"

CHECKS: dict[Callable[[Job], Faults], list[Callable[[Job], None]]] = {
    checks.gpu_requests_that_differ_from_limits: [
        set_at(f"{MAIN}/resources/requests/nvidia.com~gpu", "2"),
        set_at(f"{MAIN}/resources/limits/nvidia.com~gpu", None),
    ],
    checks.resources_that_are_missing_or_upside_down: [
        set_at(f"{MAIN}/resources/limits/memory", "1Gi"),
        set_at(f"{MAIN}/resources/requests/ephemeral-storage", None),
    ],
    checks.quantities_that_are_no_strings: [
        set_at(f"{MAIN}/resources/limits/cpu", 8),
        set_at(f"{MAIN}/resources/limits/memory", "16GB"),
        set_at(f"{POD}/volumes/1/emptyDir/sizeLimit", 2),
    ],
    checks.mounts_without_a_volume: [
        set_at(f"{MAIN}/volumeMounts/0/name", "scrach"),
        set_at(f"{POD}/volumes/1", None),
    ],
    checks.names_that_are_no_dns_labels: [
        set_at("metadata/name", "Seamline_Train"),
        set_at(f"{MAIN}/name", "trainer-"),
    ],
    checks.failure_policy_that_cannot_work: [
        set_at(f"{POD}/restartPolicy", "OnFailure"),
        set_at("spec/podReplacementPolicy", "TerminatingOrFailed"),
        set_at(f"{RULES}/0/onExitCodes/containerName", "trainer"),
        set_at(f"{RULES}/0/onExitCodes/values", [43]),
        set_at(f"{RULES}/0/onExitCodes/operator", "NotIn"),
        set_at(f"{RULES}/1/onPodConditions/0/status", "False"),
        set_at(f"{RULES}/1", None),
        set_at(f"{RULES}/2", None),
        set_at(f"{RULES}/2/onExitCodes/values", [75, 143]),
        lambda job: job["spec"]["podFailurePolicy"]["rules"].reverse(),
    ],
    checks.limits_in_time_that_are_missing: [
        set_at("spec/activeDeadlineSeconds", None),
        set_at("spec/ttlSecondsAfterFinished", None),
        set_at("spec/backoffLimit", None),
        set_at(f"{POD}/terminationGracePeriodSeconds", 5),
    ],
    checks.security_below_the_restricted_standard: [
        set_at(f"{POD}/securityContext/runAsNonRoot", False),
        set_at(f"{POD}/securityContext/runAsUser", 0),
        set_at(f"{POD}/securityContext/seccompProfile", None),
        set_at(f"{POD}/automountServiceAccountToken", None),
        set_at(f"{POD}/enableServiceLinks", None),
        set_at(f"{POD}/hostNetwork", True),
        set_at(f"{POD}/volumes/0", {"name": "scratch", "hostPath": {"path": "/"}}),
        set_at(f"{MAIN}/securityContext/allowPrivilegeEscalation", None),
        set_at(f"{MAIN}/securityContext/privileged", True),
        set_at(f"{MAIN}/securityContext/readOnlyRootFilesystem", False),
        set_at(f"{MAIN}/securityContext/capabilities/add", ["SYS_ADMIN"]),
        set_at(f"{MAIN}/securityContext/runAsUser", 0),
    ],
    checks.images_without_a_digest: [
        set_at(f"{MAIN}/image", "registry.example/seamline:latest"),
        set_at(f"{MAIN}/image", "registry.example/seamline@sha256:12ab"),
    ],
    checks.folders_that_cannot_be_written: [
        set_at(f"{MAIN}/env/4/value", "/var/scratch"),
        set_at(f"{MAIN}/env/6", None),
        set_at(f"{MAIN}/volumeMounts/1", None),
    ],
    checks.volumes_that_outgrow_their_pod: [
        set_at(f"{POD}/volumes/0/emptyDir/sizeLimit", None),
        set_at(f"{POD}/volumes/1/emptyDir/sizeLimit", "17Gi"),
    ],
    checks.variables_that_are_not_set: [
        set_at(f"{MAIN}/env/0", None),
        add_argument("--seed=$(JOB_COMPLETION_INDEX)"),
    ],
    checks.head_that_differs_from_the_pod: [
        set_at("metadata/annotations/seamline~gpus", "2"),
        set_at("metadata/annotations/seamline~data", "gs://other"),
        set_at("metadata/annotations/seamline~workers", "2"),
        set_at(f"{MAIN}/image", "other"),
    ],
    checks.training_without_its_preflight: [
        set_at(f"{POD}/initContainers", None),
        set_at(f"{CHECK}/command/3", "--gpus=1"),
        set_at(f"{CHECK}/volumeMounts/1", None),
        add_argument("--seed=1"),
    ],
    checks.gpu_nodes_that_refuse_the_pod: [set_at(f"{POD}/tolerations/0", None)],
    checks.arguments_the_command_refuses: [
        add_argument("--epoch=3"),
        add_argument("--epochs=many"),
        add_argument("epochs=3"),
    ],
    checks.values_that_are_left_to_fall_back: [
        add_argument("--dataset=auto"),
        add_argument("--encoder_weights=auto"),
    ],
}


def planted(checks: dict[Any, Any]) -> Iterator[Any]:
    for check, faults in checks.items():
        for number, plant in enumerate(faults):
            yield pytest.param(check, plant, id=f"{check.__name__}-{number}")


def on(kind: str, path: str, value: Any) -> Callable[[list[Object]], None]:
    """Plants a fault in the one object of that kind."""
    return lambda found: set_at(path, value)(of_kind(found, kind)[0])


RULE, TOGETHER = "rules/0", "train-multiworker.yaml+plain"
CHECKS_TOGETHER: dict[
    Callable[[list[Object]], Faults], list[Callable[[list[Object]], None]]
] = {
    checks.identity_that_may_too_much_or_too_little: [
        on("ServiceAccount", "metadata/name", "other"),
        on("Role", f"{RULE}/resources", ["jobs", "secrets"]),
        on("Role", f"{RULE}/apiGroups", ["*"]),
        on("Role", f"{RULE}/verbs", ["get", "patch", "delete"]),
        on("Role", f"{RULE}/resourceNames", None),
        on("Role", f"{RULE}/resourceNames", ["seamline-train"]),
        on("Role", "metadata/name", "other"),
        on("RoleBinding", "subjects/0/name", "default"),
    ],
    checks.workers_that_do_not_find_each_other: [
        on("Service", "kind", "Endpoints"),
        on("Service", "spec/clusterIP", None),
        on("Service", "spec/publishNotReadyAddresses", False),
        on("Service", "spec/selector", {"batch.kubernetes.io/job-name": "other"}),
        on("Service", "spec/ports/0/port", 2223),
        on("Service", "metadata/name", "other"),
        on("Job", f"{POD}/subdomain", None),
        on("Job", "spec/completionMode", "NonIndexed"),
        on("Job", "metadata/name", "a" * 63),
    ],
    checks.claims_that_are_not_there: [
        on("PersistentVolumeClaim", "metadata/name", "other"),
        on("Job", "metadata/annotations/seamline~data", "/elsewhere"),
        on("Job", f"{CHECK}/volumeMounts/2", None),
    ],
}


@pytest.mark.parametrize("origin", [*ORIGINS, "service-account.yaml"])
def test_every_document_is_valid_with_strict_checking(origin: str) -> None:
    for version in VERSIONS:
        for document in documents(origin):
            used = kubernetes_validate.validate(document, version, strict=True)
            assert used == version


def test_every_file_is_looked_at() -> None:
    names = {path.name for path in (ROOT / "k8s").glob("*.yaml")}
    assert names == {*JOBS, "service-account.yaml", "kustomization.yaml"}
    overlays = {path.name for path in (ROOT / "k8s/overlays").iterdir()}
    assert overlays == {build.partition("+")[2] for build in BUILDS}


def test_a_misspelt_field_would_be_found() -> None:
    job = copy.deepcopy(job_of("train-job.yaml"))
    job["spec"]["backofLimit"] = 3
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_job_has_a_fault(origin: str) -> None:
    job = job_of(origin)
    assert {check.__name__: check(job) for check in CHECKS if check(job)} == {}


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_job_and_what_is_beside_it_fit(origin: str) -> None:
    found = together(origin)
    faults = {check.__name__: check(found) for check in CHECKS_TOGETHER}
    assert {name: told for name, told in faults.items() if told} == {}


@pytest.mark.parametrize(("check", "plant"), list(planted(CHECKS)))
def test_a_planted_fault_is_found(
    check: Callable[[Job], Faults], plant: Callable[[Job], None]
) -> None:
    job = copy.deepcopy(job_of("train-job.yaml"))
    assert check(job) == []
    plant(job)
    assert check(job) != []


@pytest.mark.parametrize(("check", "plant"), list(planted(CHECKS_TOGETHER)))
def test_a_fault_planted_between_objects_is_found(
    check: Callable[[list[Object]], Faults], plant: Callable[[list[Object]], None]
) -> None:
    found = copy.deepcopy(together(TOGETHER))
    assert check(found) == []
    plant(found)
    assert check(found) != []


@pytest.mark.parametrize(
    "plant",
    [
        set_at(f"{RULES}/3/onExitCodes/containerName", None),
        set_at(f"{RULES}/3/onExitCodes/containerName", "preflight"),
        set_at(f"{RULES}/2/onExitCodes/values", [75, 143]),
        set_at(f"{RULES}/2/onExitCodes/containerName", "trainer"),
        set_at(f"{RULES}/3", None),
    ],
)
def test_workers_count_a_75_of_the_preflight_alone(
    plant: Callable[[Job], None],
) -> None:
    job = copy.deepcopy(job_of("train-multiworker.yaml"))
    assert checks.failure_policy_that_cannot_work(job) == []
    plant(job)
    assert checks.failure_policy_that_cannot_work(job) != []


def test_the_pods_of_a_conversion_share_it_without_gaps() -> None:
    args = main_of(job_of("convert-job.yaml"))["args"]
    # Kubernetes puts the pod's number into this variable and expands both here.
    assert "--shard_index=$(JOB_COMPLETION_INDEX)" in args
    assert "--num_hosts=$(SEAMLINE_WORKERS)" in args


@pytest.mark.parametrize("name", JOBS)
def test_two_edits_at_the_top_make_a_job_yours(name: str) -> None:
    lines = (ROOT / "k8s" / name).read_text("utf-8").splitlines()
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    edits = [n for n, line in enumerate(lines) if "YOUR_" in line]
    assert [re.findall(r"YOUR_[A-Z]+", lines[n]) for n in edits] == [
        ["YOUR_REGISTRY"],
        ["YOUR_BUCKET"],
    ]
    assert max(edits) < lines.index("spec:")


def test_gke_asks_for_the_gpu_spot_nodes_and_workload_identity() -> None:
    pod = pod_of(job_of("train-job.yaml+gke"))
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
        "iam.gke.io/gke-metadata-server-enabled": "true",
    }
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
    assert {**spot, "effect": "NoSchedule"} in pod["tolerations"]
    converting = pod_of(job_of("convert-job.yaml+gke"))
    assert {**spot, "effect": "NoSchedule"} in converting["tolerations"]
    assert "cloud.google.com/gke-accelerator" not in converting["nodeSelector"]


@pytest.mark.parametrize("name", JOBS)
def test_a_plain_cluster_needs_no_bucket(name: str) -> None:
    job = job_of(f"{name}+plain")
    head = job["metadata"]["annotations"]
    assert head["seamline/data"] == "/data"
    assert "YOUR_BUCKET" not in yaml.safe_dump(job)
    assert "gs://" not in yaml.safe_dump(job)


@pytest.mark.parametrize("name", JOBS)
def test_kueue_is_told_the_queue_and_the_pods_stay_as_they_are(name: str) -> None:
    job = job_of(f"{name}+kueue")
    assert job["metadata"]["labels"].pop("kueue.x-k8s.io/queue-name") == "YOUR_QUEUE"
    assert job == job_of(name)
