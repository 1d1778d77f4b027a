"""`trainer.launch submit`: what is created, and what is refused before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.desk import BUCKET, IMAGE, ROOT, Desk
from tests.kubectl import documents
from tests.kubernetes_api import Server


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
    told = desk.submit("--workers=3", "--gpus=8", "--", "--batch_size=48")
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


def test_own_folders_and_lists_take_the_place_of_the_manifests_values(
    desk: Desk,
) -> None:
    own = ("--images_dir=gs://b/i", "--masks_dir=gs://b/m", "--label_names=gs://b/n")
    lists = ("--train_ids=gs://b/train.txt", "--val_ids=gs://b/val.txt")
    convert = ("--dry_run", "--manifest=k8s/convert-job.yaml")
    (job, *_) = printed(desk.submit(*convert, "--", *own, *lists))
    args = container(job)["args"]
    assert args[-5:] == [*own, *lists]
    gone = ("--dataset=", "--split_fraction=", "--split_seed=")
    assert not [token for token in args if token.startswith(gone)]


@pytest.mark.parametrize(
    ("manifest", "given"),
    [
        ("train-job", ["--recipe=tutorial"]),
        ("train-multiworker", ["--recipe=tutorial"]),
        ("train-multiworker", ["--recipe=tutorial", "--batch_size=32"]),
    ],
)
def test_another_recipe_trains_with_its_own_batch_unless_one_is_given(
    desk: Desk, manifest: str, given: list[str]
) -> None:
    told = desk.submit("--dry_run", f"--manifest=k8s/{manifest}.yaml", "--", *given)
    (job, *_) = [x for x in printed(told) if x["kind"] == "Job"]
    names = ("batch_size", "image_size", "loss", "optimizer", "learning_rate")
    found = {x.partition("=")[0][2:] for x in container(job)["args"]}
    own = {token.partition("=")[0][2:] for token in given}
    assert found & {*names} == own & {*names}


def test_the_last_of_two_values_counts_with_one_dash_or_two(desk: Desk) -> None:
    told = desk.submit("--dry_run", "--", "-epochs=3", "--epochs=4", "-seed=7")
    (job, *_) = printed(told)
    for one in (container(job), check(job)):
        found = [x for x in one["args"] if "epochs=" in x or "seed=7" in x]
        assert found == ["--epochs=4", "--seed=7"]


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
        (["--data=gs://YOUR_BUCKET"], "gs://YOUR_BUCKET: not filled in; give --data"),
        (
            ["--image=", "--data=gs://YOUR_BUCKET"],
            "not filled in; give --image=IMAGE@sha256:… and --data=gs://BUCKET",
        ),
        (["--image=https://r/x"], "--image=https://r/x: not a name"),
        (["--data=s3://photos"], "--data=s3://photos: give gs://BUCKET"),
        (["--data=gs://"], "--data=gs:: give gs://BUCKET"),
        (["--", "--run_dir=s3://b/x"], "--run_dir=s3://b/x: would be lost"),
        (["--", "--epochs=-3"], "--epochs"),
        (["--", "--image_size=100"], "--image_size=100: must be a multiple of 32"),
        (["--", "--recipe=best"], "--recipe=best"),
        (["--", "--profile_steps=7"], "--profile_steps=7: give the first and the last"),
        (["--", "--learning_rate=nan"], "--learning_rate=nan: must be a finite"),
        (
            ["--gpus=2", "--", "--batch_size=9"],
            "--batch_size=9: must be a multiple of the 2 replicas (1 × 2); nearest: 8 "
            "or 10, given after --",
        ),
        (["--workers=3"], "--batch_size=32: must be a multiple of the 3 replicas"),
        (
            ["--manifest=k8s/convert-job.yaml", "--", "--num_hosts=3"],
            "--num_hosts=3: each pod gets its own; give --workers",
        ),
        (
            ["--manifest=k8s/convert-job.yaml", "--", "--shard_index=3"],
            "--shard_index=3: each pod gets its own",
        ),
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
        (["--", "--run_dir", "gs://b/x"], "gs://b/x: not a flag; give values as --"),
        (["--workers=2", "--", "--strategy", "mirrored"], "mirrored: not a flag"),
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
