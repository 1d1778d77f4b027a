"""Every manifest is valid for each Kubernetes in use, and means what it should."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[1]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
GPU = "nvidia.com/gpu"

Job = dict[str, Any]
Faults = list[str]


def documents() -> list[tuple[str, Job]]:
    found = []
    for path in sorted((ROOT / "k8s").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            if "apiVersion" in document:
                found.append((path.name, document))
    return found


def jobs() -> list[Any]:
    return [
        pytest.param(job, id=f"{name}:{job['metadata']['name']}")
        for name, job in documents()
        if job["kind"] == "Job"
    ]


def train_job() -> Job:
    return yaml.safe_load((ROOT / "k8s/train-job.yaml").read_text("utf-8"))


def pod_of(job: Job) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def trains(job: Job) -> bool:
    """True for jobs that run the trainer, which need more than a conversion does."""
    (container,) = pod_of(job)["containers"]
    return container["command"][-1] == "trainer.task"


def containers_of(job: Job) -> list[dict[str, Any]]:
    pod = pod_of(job)
    return [*pod.get("initContainers", []), *pod["containers"]]


# Each check returns what is wrong, in words; [] when all is well.


def gpu_requests_that_differ_from_limits(job: Job) -> Faults:
    faults = []
    for container in containers_of(job):
        resources = container["resources"]
        asked, most = (resources[kind].get(GPU) for kind in ("requests", "limits"))
        if asked != most:
            faults.append(f"{container['name']}: requests {asked}, limit {most}")
    return faults


def _amount(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity stands for."""
    number, suffix = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    powers = {"": 1, "m": Decimal("0.001")}
    powers |= {f"{unit}i": 1024 ** (n + 1) for n, unit in enumerate("KMGTPE")}
    powers |= {unit: 1000 ** (n + 1) for n, unit in enumerate("kMGTPE")}
    return Decimal(number) * powers[suffix]


def resources_that_are_missing_or_upside_down(job: Job) -> Faults:
    faults = []
    for container in containers_of(job):
        requests = container["resources"].get("requests", {})
        limits = container["resources"].get("limits", {})
        for name in ("cpu", "memory", "ephemeral-storage"):
            if name not in requests or name not in limits:
                faults.append(f"{container['name']}: no request and limit of {name}")
            elif _amount(requests[name]) > _amount(limits[name]):
                faults.append(f"{container['name']}: request of {name} above limit")
    return faults


def quantities_that_are_no_strings(job: Job) -> Faults:
    quantity = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
    amounts: list[tuple[str, Any]] = []
    for container in containers_of(job):
        for kind in ("requests", "limits"):
            amounts += container["resources"].get(kind, {}).items()
    for volume in pod_of(job).get("volumes", []):
        if limit := volume.get("emptyDir", {}).get("sizeLimit"):
            amounts.append((volume["name"], limit))
    return [
        f"{name}: {amount!r}"
        for name, amount in amounts
        if not isinstance(amount, str) or not quantity.fullmatch(amount)
    ]


def mounts_without_a_volume(job: Job) -> Faults:
    volumes = {volume["name"] for volume in pod_of(job).get("volumes", [])}
    mounts = [
        mount["name"]
        for container in containers_of(job)
        for mount in container.get("volumeMounts", [])
    ]
    faults = [f"no volume {name}" for name in mounts if name not in volumes]
    return faults + [f"no mount of {name}" for name in volumes - set(mounts)]


def names_that_are_no_dns_labels(job: Job) -> Faults:
    names = [job["metadata"]["name"]]
    names += [container["name"] for container in containers_of(job)]
    names += [volume["name"] for volume in pod_of(job).get("volumes", [])]
    label = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
    return [name for name in names if not label.fullmatch(name)]


def failure_policy_that_cannot_work(job: Job) -> Faults:
    faults = []
    if pod_of(job)["restartPolicy"] != "Never":
        faults.append("podFailurePolicy needs restartPolicy Never")
    if job["spec"].get("podReplacementPolicy") != "Failed":
        faults.append("two pods could write one run directory")
    rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
    names = {container["name"] for container in containers_of(job)}
    fails, ignores = False, False
    for rule in rules:
        codes = rule.get("onExitCodes", {})
        if codes and codes.get("containerName") not in names:
            faults.append(f"no container {codes.get('containerName')}")
        stops = rule["action"] == "FailJob" and codes.get("operator") == "In"
        fails |= stops and codes.get("values") == [42]
        for condition in rule.get("onPodConditions", []):
            disruption = {"type": "DisruptionTarget", "status": "True"}
            ignores |= rule["action"] == "Ignore" and condition == disruption
    if not fails:
        faults.append("42 does not fail the Job")
    if not ignores:
        faults.append("a disruption counts as a failure")
    return faults


def limits_in_time_that_are_missing(job: Job) -> Faults:
    spec = job["spec"]
    wanted = ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
    faults = [name for name in wanted if not isinstance(spec.get(name), int)]
    if pod_of(job).get("terminationGracePeriodSeconds", 30) < 30:
        faults.append("terminationGracePeriodSeconds")
    return faults


def security_below_the_restricted_standard(job: Job) -> Faults:
    pod = pod_of(job)
    faults = [k for k in ("hostNetwork", "hostPID", "hostIPC") if pod.get(k)]
    faults += [v["name"] for v in pod.get("volumes", []) if "hostPath" in v]
    if pod.get("automountServiceAccountToken") is not False:
        faults.append("automountServiceAccountToken")
    for container in containers_of(job):
        own = container.get("securityContext", {})
        context = {**pod.get("securityContext", {}), **own}
        held = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser", 0) > 0,
            "seccompProfile": context.get("seccompProfile")
            == {"type": "RuntimeDefault"},
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        }
        faults += [name for name, good in held.items() if not good]
    return faults


def images_without_a_digest(job: Job) -> Faults:
    images = [container["image"] for container in containers_of(job)]
    return [i for i in images if not re.search(r"@sha256:[0-9a-f]{64}$", i)]


def folders_that_cannot_be_written(job: Job) -> Faults:
    faults = []
    for container in pod_of(job)["containers"]:
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        values = {item["name"]: item.get("value") for item in container["env"]}
        wanted = ("TMPDIR", "HOME", *(["KERAS_HOME"] if trains(job) else []))
        for name in wanted:
            if not any(f"{values.get(name)}/".startswith(f"{m}/") for m in mounts):
                faults.append(f"{name}={values.get(name)}")
        if trains(job) and "/dev/shm" not in mounts:
            faults.append("/dev/shm")
    return faults


def arguments_the_command_refuses(job: Job) -> Faults:
    """Parses the arguments with the flags of the command that the pod runs."""
    (container,) = pod_of(job)["containers"]
    code = (
        "import importlib, sys; from absl import flags;"
        "importlib.import_module(sys.argv[1]);"
        "rest = flags.FLAGS(sys.argv[1:]);"
        "assert not rest[1:], rest"
    )
    # As Kubernetes expands it in the first pod of an Indexed Job.
    arguments = [
        token.replace("$(JOB_COMPLETION_INDEX)", "0") for token in container["args"]
    ]
    result = subprocess.run(
        [sys.executable, "-c", code, container["command"][-1], *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return result.stderr.splitlines()[-1:] if result.returncode else []


def values_that_are_left_to_fall_back(job: Job) -> Faults:
    """Flags whose default or recipe may decide by what the machine has."""
    (container,) = pod_of(job)["containers"]
    given = dict(token[2:].partition("=")[::2] for token in container["args"])
    decided = ["dataset", "records_dir"]
    if trains(job):
        decided += ["run_dir", "recipe", "encoder_weights", "strategy", "epochs"]
    return [name for name in decided if given.get(name) in (None, "", "auto")]


def set_at(path: str, value: Any) -> Callable[[Job], None]:
    """Plants a fault; `path` such as `spec/backoffLimit`, None removes."""

    def plant(job: Job) -> None:
        parts = path.replace(GPU, "GPU").split("/")
        keys = {"GPU": GPU}
        *parents, last = [int(p) if p.isdecimal() else keys.get(p, p) for p in parts]
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
RULES = "spec/podFailurePolicy/rules"

CHECKS: dict[Callable[[Job], Faults], list[Callable[[Job], None]]] = {
    gpu_requests_that_differ_from_limits: [
        set_at(f"{MAIN}/resources/requests/{GPU}", "2"),
        set_at(f"{MAIN}/resources/limits/{GPU}", None),
    ],
    resources_that_are_missing_or_upside_down: [
        set_at(f"{MAIN}/resources/limits/memory", "1Gi"),
        set_at(f"{MAIN}/resources/requests/ephemeral-storage", None),
    ],
    quantities_that_are_no_strings: [
        set_at(f"{MAIN}/resources/limits/cpu", 8),
        set_at(f"{MAIN}/resources/limits/memory", "16GB"),
        set_at(f"{POD}/volumes/1/emptyDir/sizeLimit", 2),
    ],
    mounts_without_a_volume: [
        set_at(f"{MAIN}/volumeMounts/0/name", "scrach"),
        set_at(f"{POD}/volumes/1", None),
    ],
    names_that_are_no_dns_labels: [
        set_at("metadata/name", "Seamline_Train"),
        set_at(f"{MAIN}/name", "trainer-"),
    ],
    failure_policy_that_cannot_work: [
        set_at(f"{POD}/restartPolicy", "OnFailure"),
        set_at("spec/podReplacementPolicy", "TerminatingOrFailed"),
        set_at(f"{RULES}/0/onExitCodes/containerName", "main"),
        set_at(f"{RULES}/0/onExitCodes/values", [43]),
        set_at(f"{RULES}/0/onExitCodes/operator", "NotIn"),
        set_at(f"{RULES}/1/onPodConditions/0/status", "False"),
        set_at(f"{RULES}/1", None),
    ],
    limits_in_time_that_are_missing: [
        set_at("spec/activeDeadlineSeconds", None),
        set_at("spec/ttlSecondsAfterFinished", None),
        set_at("spec/backoffLimit", None),
        set_at(f"{POD}/terminationGracePeriodSeconds", 5),
    ],
    security_below_the_restricted_standard: [
        set_at(f"{POD}/securityContext/runAsNonRoot", False),
        set_at(f"{POD}/securityContext/runAsUser", 0),
        set_at(f"{POD}/securityContext/seccompProfile", None),
        set_at(f"{POD}/automountServiceAccountToken", True),
        set_at(f"{POD}/hostNetwork", True),
        set_at(f"{POD}/volumes/0", {"name": "scratch", "hostPath": {"path": "/"}}),
        set_at(f"{MAIN}/securityContext/allowPrivilegeEscalation", None),
        set_at(f"{MAIN}/securityContext/privileged", True),
        set_at(f"{MAIN}/securityContext/readOnlyRootFilesystem", False),
        set_at(f"{MAIN}/securityContext/capabilities/add", ["SYS_ADMIN"]),
        set_at(f"{MAIN}/securityContext/runAsUser", 0),
    ],
    images_without_a_digest: [
        set_at(f"{MAIN}/image", "registry.example/seamline:latest"),
        set_at(f"{MAIN}/image", "registry.example/seamline@sha256:12ab"),
    ],
    folders_that_cannot_be_written: [
        set_at(f"{MAIN}/env/0/value", "/var/scratch"),
        set_at(f"{MAIN}/env/2", None),
        set_at(f"{MAIN}/volumeMounts/1", None),
    ],
    arguments_the_command_refuses: [
        add_argument("--epoch=3"),
        add_argument("--epochs=many"),
        add_argument("epochs=3"),
    ],
    values_that_are_left_to_fall_back: [
        add_argument("--dataset=auto"),
        add_argument("--encoder_weights=auto"),
    ],
}


def planted() -> Iterator[Any]:
    for check, faults in CHECKS.items():
        for number, plant in enumerate(faults):
            yield pytest.param(check, plant, id=f"{check.__name__}-{number}")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid_with_strict_checking(version: str) -> None:
    assert documents()
    for name, document in documents():
        used = kubernetes_validate.validate(document, version, strict=True)
        assert used == version, name


def test_a_misspelt_field_would_be_found() -> None:
    job = train_job()
    job["spec"]["backofLimit"] = 3
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("job", jobs())
def test_no_job_has(job: Job, check: Callable[[Job], Faults]) -> None:
    assert check(job) == []


@pytest.mark.parametrize(("check", "plant"), list(planted()))
def test_a_planted_fault_is_found(
    check: Callable[[Job], Faults], plant: Callable[[Job], None]
) -> None:
    job = copy.deepcopy(train_job())
    plant(job)
    assert check(job) != []


def test_the_pods_of_a_conversion_share_it_without_gaps() -> None:
    text = (ROOT / "k8s/convert-job.yaml").read_text("utf-8")
    spec = yaml.safe_load(text)["spec"]
    assert spec["completionMode"] == "Indexed"
    [container] = spec["template"]["spec"]["containers"]
    hosts = f"--num_hosts={spec['completions']}"
    assert hosts in container["args"]
    assert spec["parallelism"] == spec["completions"]
    # Kubernetes puts the pod's number into this variable and expands it here.
    assert "--shard_index=$(JOB_COMPLETION_INDEX)" in container["args"]


@pytest.mark.parametrize("name", ["train-job.yaml", "convert-job.yaml"])
def test_two_edits_make_a_job_yours(name: str) -> None:
    text = (ROOT / "k8s" / name).read_text("utf-8")
    body = "".join(
        line for line in text.splitlines(True) if not line.lstrip().startswith("#")
    )
    edits = set(re.findall(r"YOUR_[A-Z]+", body))
    assert edits == {"YOUR_REGISTRY", "YOUR_BUCKET"}
    head = text.partition("apiVersion")[0]
    assert "image:" in head
    assert "YOUR_BUCKET" in head
