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

from tests.kubectl import BUILDS, JOBS, documents

ROOT = Path(__file__).parents[1]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
GPU = "nvidia.com/gpu"
ORIGINS = [*JOBS, *BUILDS]

Object = dict[str, Any]
Job = Object
Faults = list[str]


def of_kind(found: list[Object], kind: str) -> list[Object]:
    return [document for document in found if document["kind"] == kind]


def job_of(origin: str) -> Job:
    """The one Job of a file or build."""
    (job,) = of_kind(documents(origin), "Job")
    return job


def together(origin: str) -> list[Object]:
    """What is applied for a Job: its file, and who its pods are."""
    own = documents(origin)
    return own if "+" in origin else [*own, *documents("service-account.yaml")]


def pod_of(job: Job) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def main_of(job: Job) -> dict[str, Any]:
    (container,) = pod_of(job)["containers"]
    return container


def trains(job: Job) -> bool:
    """True for jobs that run the trainer, which need more than a conversion does."""
    return main_of(job)["command"][-1] == "trainer.task"


def works_together(job: Job) -> bool:
    return trains(job) and job["spec"]["completions"] > 1


def containers_of(job: Job) -> list[dict[str, Any]]:
    pod = pod_of(job)
    return [*pod.get("initContainers", []), *pod["containers"]]


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    """Variables with a value written out."""
    return {v["name"]: v["value"] for v in container["env"] if "value" in v}


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
    codes: dict[str, list[int]] = {"FailJob": [], "Ignore": []}
    ignores = False
    for number, rule in enumerate(rules):
        met = rule.get("onExitCodes", {})
        if met.get("containerName"):
            faults.append("an exit code counts in one container alone")
        if met.get("operator") == "In":
            codes[rule["action"]] += met["values"]
        if rule["action"] == "FailJob" and number:
            faults.append("42 comes after a rule that may hide it")
        for condition in rule.get("onPodConditions", []):
            disruption = {"type": "DisruptionTarget", "status": "True"}
            ignores |= rule["action"] == "Ignore" and condition == disruption
    if codes["FailJob"] != [42]:
        faults.append("42 does not fail the Job")
    if codes["Ignore"] != ([75, 143] if works_together(job) else [143]):
        faults.append(f"not counted: {codes['Ignore']}")
    if not ignores:
        faults.append("a disruption counts as a failure")
    return faults


def limits_in_time_that_are_missing(job: Job) -> Faults:
    spec = job["spec"]
    wanted = ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
    faults = [name for name in wanted if not isinstance(spec.get(name), int)]
    least = 60 if trains(job) else 30  # a checkpoint must fit in
    if pod_of(job).get("terminationGracePeriodSeconds", 30) < least:
        faults.append("terminationGracePeriodSeconds")
    return faults


def security_below_the_restricted_standard(job: Job) -> Faults:
    pod = pod_of(job)
    faults = [k for k in ("hostNetwork", "hostPID", "hostIPC") if pod.get(k)]
    faults += [v["name"] for v in pod.get("volumes", []) if "hostPath" in v]
    # A token only where it is used: to write progress.
    if pod.get("automountServiceAccountToken") is not trains(job):
        faults.append("automountServiceAccountToken")
    if pod.get("enableServiceLinks") is not False:
        faults.append("enableServiceLinks")
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
    for container in containers_of(job):
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        values = variables_of(container)
        wanted = ("TMPDIR", "HOME", *(["KERAS_HOME"] if trains(job) else []))
        for name in wanted:
            if not any(f"{values.get(name)}/".startswith(f"{m}/") for m in mounts):
                faults.append(f"{name}={values.get(name)}")
        if "/dev/shm" not in mounts:
            faults.append("/dev/shm")
    return faults


def volumes_that_outgrow_their_pod(job: Job) -> Faults:
    limits = main_of(job)["resources"]["limits"]
    faults = []
    for volume in pod_of(job)["volumes"]:
        if "emptyDir" not in volume:
            continue
        in_memory = volume["emptyDir"].get("medium") == "Memory"
        most = limits["memory" if in_memory else "ephemeral-storage"]
        size = volume["emptyDir"].get("sizeLimit", "1E")
        if _amount(size) > _amount(most):
            faults.append(f"{volume['name']}: {size}, limit {most}")
    return faults


def variables_that_are_not_set(job: Job) -> Faults:
    faults = []
    for container in containers_of(job):
        known = {variable["name"] for variable in container["env"]}
        if job["spec"].get("completionMode") == "Indexed":
            known.add("JOB_COMPLETION_INDEX")
        tokens = " ".join([*container["command"], *container["args"]])
        faults += sorted(set(re.findall(r"\$\((\w+)\)", tokens)) - known)
    return faults


def head_that_differs_from_the_pod(job: Job) -> Faults:
    """The annotations at the top of the file are what a person edits."""
    head = job["metadata"]["annotations"]
    faults = []
    for container in containers_of(job):
        values, gpus = variables_of(container), head.get("seamline/gpus")
        pairs = {
            "image": (head["seamline/image"], container["image"]),
            "data": (head["seamline/data"], values.get("SEAMLINE_DATA")),
            "gpus": (gpus, container["resources"]["limits"].get(GPU)),
            "SEAMLINE_GPUS": (gpus, values.get("SEAMLINE_GPUS")),
            "workers": (head.get("seamline/workers"), values.get("SEAMLINE_WORKERS")),
        }
        faults += [name for name, (one, other) in pairs.items() if one != other]
    if "seamline/workers" in head:
        spec = job["spec"]
        counts = {head["seamline/workers"]}
        counts |= {str(spec["completions"]), str(spec["parallelism"])}
        if len(counts) > 1:
            faults.append(f"workers: {sorted(counts)}")
        if spec.get("completionMode") != "Indexed":
            faults.append("workers without numbers")
    return faults


def training_without_its_preflight(job: Job) -> Faults:
    if not trains(job):
        return []
    (main,) = pod_of(job)["containers"]
    if not pod_of(job).get("initContainers"):
        return ["no preflight"]
    (check,) = pod_of(job)["initContainers"]
    wanted = ["python", "-m", "trainer.preflight", "--gpus=$(SEAMLINE_GPUS)"]
    own = ("name", "command", "ports")
    names = ({*check} | {*main}) - {*own}
    faults = [name for name in sorted(names) if check.get(name) != main.get(name)]
    return faults + ([] if check["command"] == wanted else ["command"])


def gpu_nodes_that_refuse_the_pod(job: Job) -> Faults:
    tolerated = {item["key"] for item in pod_of(job).get("tolerations", [])}
    asks = any(GPU in c["resources"]["limits"] for c in containers_of(job))
    return ["no toleration"] if asks and GPU not in tolerated else []


def arguments_the_command_refuses(job: Job) -> Faults:
    """Parses the arguments with the flags of the command that the pod runs."""
    container = main_of(job)
    code = (
        "import importlib, sys; from absl import flags;"
        "importlib.import_module(sys.argv[1]);"
        "rest = flags.FLAGS(sys.argv[1:]);"
        "assert not rest[1:], rest"
    )
    # As Kubernetes expands them in the first pod of an Indexed Job.
    values = {"JOB_COMPLETION_INDEX": "0", **variables_of(container)}
    arguments = [
        re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), token)
        for token in container["args"]
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
    gpu_requests_that_differ_from_limits: [
        set_at(f"{MAIN}/resources/requests/nvidia.com~gpu", "2"),
        set_at(f"{MAIN}/resources/limits/nvidia.com~gpu", None),
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
        set_at(f"{RULES}/0/onExitCodes/containerName", "trainer"),
        set_at(f"{RULES}/0/onExitCodes/values", [43]),
        set_at(f"{RULES}/0/onExitCodes/operator", "NotIn"),
        set_at(f"{RULES}/1/onPodConditions/0/status", "False"),
        set_at(f"{RULES}/1", None),
        set_at(f"{RULES}/2", None),
        set_at(f"{RULES}/2/onExitCodes/values", [75, 143]),
        lambda job: job["spec"]["podFailurePolicy"]["rules"].reverse(),
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
    images_without_a_digest: [
        set_at(f"{MAIN}/image", "registry.example/seamline:latest"),
        set_at(f"{MAIN}/image", "registry.example/seamline@sha256:12ab"),
    ],
    folders_that_cannot_be_written: [
        set_at(f"{MAIN}/env/4/value", "/var/scratch"),
        set_at(f"{MAIN}/env/6", None),
        set_at(f"{MAIN}/volumeMounts/1", None),
    ],
    volumes_that_outgrow_their_pod: [
        set_at(f"{POD}/volumes/0/emptyDir/sizeLimit", None),
        set_at(f"{POD}/volumes/1/emptyDir/sizeLimit", "17Gi"),
    ],
    variables_that_are_not_set: [
        set_at(f"{MAIN}/env/0", None),
        add_argument("--seed=$(JOB_COMPLETION_INDEX)"),
    ],
    head_that_differs_from_the_pod: [
        set_at("metadata/annotations/seamline~gpus", "2"),
        set_at("metadata/annotations/seamline~data", "gs://other"),
        set_at("metadata/annotations/seamline~workers", "2"),
        set_at(f"{MAIN}/image", "other"),
    ],
    training_without_its_preflight: [
        set_at(f"{POD}/initContainers", None),
        set_at(f"{CHECK}/command/3", "--gpus=1"),
        set_at(f"{CHECK}/volumeMounts/1", None),
        add_argument("--seed=1"),
    ],
    gpu_nodes_that_refuse_the_pod: [set_at(f"{POD}/tolerations/0", None)],
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


def planted(checks: dict[Any, Any]) -> Iterator[Any]:
    for check, faults in checks.items():
        for number, plant in enumerate(faults):
            yield pytest.param(check, plant, id=f"{check.__name__}-{number}")


# These look at a Job together with what is applied beside it.


def identity_that_may_too_much_or_too_little(found: list[Object]) -> Faults:
    (job,), roles = of_kind(found, "Job"), of_kind(found, "Role")
    accounts = [d["metadata"]["name"] for d in of_kind(found, "ServiceAccount")]
    name = pod_of(job).get("serviceAccountName")
    faults = [] if name in accounts else [f"no ServiceAccount {name}"]
    for rule in (rule for role in roles for rule in role["rules"]):
        if rule["apiGroups"] != ["batch"] or rule["resources"] != ["jobs"]:
            faults.append(f"may change {rule['resources']}")
        if not {*rule["verbs"]} <= {"get", "patch"}:
            faults.append(f"may {rule['verbs']}")
        if not rule.get("resourceNames"):
            faults.append("may change every Job")
        elif trains(job) and job["metadata"]["name"] not in rule["resourceNames"]:
            faults.append("may not write its progress")
    for binding in of_kind(found, "RoleBinding"):
        if binding["roleRef"]["name"] not in [r["metadata"]["name"] for r in roles]:
            faults.append("bound to no Role")
        if [s["name"] for s in binding["subjects"]] != accounts:
            faults.append("others are bound too")
    return faults


def workers_that_do_not_find_each_other(found: list[Object]) -> Faults:
    (job,), services = of_kind(found, "Job"), of_kind(found, "Service")
    if not works_together(job):
        return ["a Service for nothing"] if services else []
    if not services:
        return ["no Service"]
    (service,) = services
    name, main = service["metadata"]["name"], main_of(job)
    values, job_name = variables_of(main), job["metadata"]["name"]
    (port,), (opened,) = service["spec"]["ports"], main["ports"]
    held = {
        "headless": service["spec"].get("clusterIP") == "None",
        "before ready": service["spec"].get("publishNotReadyAddresses") is True,
        "selector": service["spec"]["selector"]
        == {"batch.kubernetes.io/job-name": job_name},
        "subdomain": pod_of(job).get("subdomain") == name,
        "SEAMLINE_SERVICE": values.get("SEAMLINE_SERVICE") == name,
        "port": {values.get("SEAMLINE_PORT")}
        == {str(port["port"]), str(opened["containerPort"])},
        "numbered": job["spec"].get("completionMode") == "Indexed",
        "strategy": "--strategy=multi_worker" in main["args"],
        "Service's name": re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name),
        "pods' names": len(f"{job_name}-{job['spec']['completions'] - 1}") <= 63,
    }
    return [name for name, good in held.items() if not good]


def claims_that_are_not_there(found: list[Object]) -> Faults:
    (job,) = of_kind(found, "Job")
    made = {d["metadata"]["name"] for d in of_kind(found, "PersistentVolumeClaim")}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod_of(job)["volumes"]
        if "persistentVolumeClaim" in volume
    }
    folder = job["metadata"]["annotations"]["seamline/data"]
    mounted = all(
        folder in [mount["mountPath"] for mount in container["volumeMounts"]]
        for container in containers_of(job)
    )
    faults = sorted(made ^ used)
    return faults if not used or mounted else [*faults, f"{folder} is not mounted"]


def on(kind: str, path: str, value: Any) -> Callable[[list[Object]], None]:
    """Plants a fault in the one object of that kind."""
    return lambda found: set_at(path, value)(of_kind(found, kind)[0])


RULE, TOGETHER = "rules/0", "train-multiworker.yaml+plain"
CHECKS_TOGETHER: dict[
    Callable[[list[Object]], Faults], list[Callable[[list[Object]], None]]
] = {
    identity_that_may_too_much_or_too_little: [
        on("ServiceAccount", "metadata/name", "other"),
        on("Role", f"{RULE}/resources", ["jobs", "secrets"]),
        on("Role", f"{RULE}/apiGroups", ["*"]),
        on("Role", f"{RULE}/verbs", ["get", "patch", "delete"]),
        on("Role", f"{RULE}/resourceNames", None),
        on("Role", f"{RULE}/resourceNames", ["seamline-train"]),
        on("Role", "metadata/name", "other"),
        on("RoleBinding", "subjects/0/name", "default"),
    ],
    workers_that_do_not_find_each_other: [
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
    claims_that_are_not_there: [
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
