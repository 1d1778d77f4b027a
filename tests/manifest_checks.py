"""Checks of what manifests mean, which no schema knows.

Each returns what is wrong, in words; [] when all is well.
"""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GPU = "nvidia.com/gpu"

Object = dict[str, Any]
Job = Object
Faults = list[str]


def of_kind(found: list[Object], kind: str) -> list[Object]:
    return [document for document in found if document["kind"] == kind]


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
    codes: dict[str, list[tuple[int, str]]] = {"FailJob": [], "Ignore": []}
    ignores = False
    for number, rule in enumerate(rules):
        met = rule.get("onExitCodes", {})
        where = met.get("containerName", "any")
        if met.get("operator") == "In":
            codes[rule["action"]] += [(code, where) for code in met["values"]]
        if rule["action"] == "FailJob" and number:
            faults.append("42 comes after a rule that may hide it")
        for condition in rule.get("onPodConditions", []):
            disruption = {"type": "DisruptionTarget", "status": "True"}
            ignores |= rule["action"] == "Ignore" and condition == disruption
    if codes["FailJob"] != [(42, "any")]:
        faults.append("42 does not fail the Job")
    # A bucket that stays away ends preflight with 75 again and again: that counts.
    lost = [(75, "trainer")] if works_together(job) else []
    if codes["Ignore"] != [(143, "any"), *lost]:
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
