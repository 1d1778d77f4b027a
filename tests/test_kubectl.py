"""Real kubectl, in two versions, with every manifest and overlay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.desk import Desk
from tests.kubectl import BUILDS, choose, documents, newest, older
from tests.kubectl import JOBS as FILES
from tests.kubernetes_api import Server

ROOT = Path(__file__).parents[1]
STRICT = "--validate=strict"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Server() as server:
        yield Desk(server, tmp_path)


@pytest.fixture(params=[newest, older], ids=["newest", "older"])
def program(request: pytest.FixtureRequest) -> str:
    return request.param()


def test_the_two_kubectls_are_of_two_versions(desk: Desk) -> None:
    told = [
        json.loads(desk.kubectl("version", "--client", "-ojson", program=one))
        for one in (newest(), older())
    ]
    assert told[0]["clientVersion"]["minor"] != told[1]["clientVersion"]["minor"]


def named(origin: str) -> set[str]:
    """KIND/NAME of all objects, in kubectl's words."""
    groups = {"Job": "job.batch", "Role": "role.rbac.authorization.k8s.io"}
    groups["RoleBinding"] = "rolebinding.rbac.authorization.k8s.io"
    return {
        f"{groups.get(d['kind'], d['kind'].lower())}/{d['metadata']['name']}"
        for d in documents(origin)
    }


@pytest.mark.parametrize("origin", [*FILES, "service-account.yaml", *BUILDS])
def test_kubectl_applies_reads_and_deletes(
    desk: Desk,
    program: str,
    tmp_path: Path,
    origin: str,
) -> None:
    source = ["--filename", str(ROOT / "k8s" / origin)]
    if "+" in origin:
        choose(origin, tmp_path / "k8s")
        source = ["--kustomize", str(tmp_path / "k8s")]

    told = desk.kubectl(
        "apply", STRICT, "--dry-run=server", *source, program=program
    ).splitlines()
    assert {*told} == {f"{name} created (server dry run)" for name in named(origin)}
    assert desk.kubectl("get", "jobs", "--output=name", program=program) == ""

    told = desk.kubectl("apply", STRICT, *source, program=program).splitlines()
    assert {*told} == {f"{name} created" for name in named(origin)}
    again = desk.kubectl("apply", STRICT, *source, program=program).splitlines()
    assert {line.partition(" ")[0] for line in again} == named(origin)
    for document in documents(origin):
        kind, name = document["kind"], document["metadata"]["name"]
        text = desk.kubectl("get", kind, name, "--output=json", program=program)
        stored = json.loads(text)
        assert stored.get("spec") == document.get("spec")
        assert stored.get("rules") == document.get("rules")
        assert name in desk.kubectl("describe", kind, name, program=program)

    told = desk.kubectl("delete", "--wait=false", *source, program=program).splitlines()
    assert len(told) == len(named(origin))
    assert desk.kubectl("get", "jobs", "--output=name", program=program) == ""


def test_kubectl_follows_a_job_to_its_end(desk: Desk, program: str) -> None:
    desk.create(step="120/600")
    desk.add_pod("first-abcde", 1, {"phase": "Succeeded"})
    desk.server.api.logs = {"first-abcde": "epoch 1/3\n"}
    assert "seamline/step: 120/600" in desk.kubectl(
        "describe", "job/first", program=program
    )
    told = desk.kubectl("logs", "first-abcde", "-c", "trainer", program=program)
    assert told == "epoch 1/3\n"
    desk.end("Complete")
    told = desk.kubectl(
        *("wait", "--for=condition=complete", "--timeout=20s", "job/first"),
        program=program,
    )
    assert told == "job.batch/first condition met\n"
    desk.kubectl("delete", "job/first", "--wait=false", program=program)
    assert desk.kubectl("get", "jobs", "--output=name", program=program) == ""


@pytest.mark.parametrize("name", FILES)
def test_the_server_refuses_a_misspelt_field(
    desk: Desk,
    program: str,
    tmp_path: Path,
    name: str,
) -> None:
    found = documents(name)
    found[0]["spec"]["backofLimit"] = found[0]["spec"].pop("backoffLimit")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump_all(found), "utf-8")
    result = desk.run(program, "apply", STRICT, "--filename", str(path))
    assert result.returncode == 1
    assert "backofLimit" in result.stderr
    assert desk.kubectl("get", "jobs", "--output=name", program=program) == ""
