"""Folders and buckets are tried, and are as they were afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import SMALL, run_command
from tests.gcs import Cloud
from tests.gcs_gate import Hook, Request
from tests.preflight import ask, empty_place, files, row  # noqa: F401
from trainer.checks import places
from trainer.checks.table import Verdict
from trainer.errors import SeamlineError
from trainer.storage import bucket_client


def test_a_local_folder_is_probed_and_is_as_it_was(work: Path) -> None:
    (work / "there").mkdir()
    table = ask(data={"records_dir": "there"}, run_dir="new/below/run")
    for check in ("records_dir", "run_dir"):
        assert row(table, check).verdict is Verdict.OK
    assert files(work) == [str(work / "there")]


def test_a_place_that_cannot_be_written_fails_unless_it_holds_the_records(
    work: Path, records_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "file").write_text("")
    found = row(ask(run_dir="file/run"), "run_dir")
    assert found.verdict is Verdict.FAIL
    assert found.found == (
        "--run_dir=file/run: cannot be written (Not a directory); mend its permissions "
        "or choose another place"
    )

    def forbid(path: str, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(places.storage, "write_bytes", forbid)
    table = ask(data={"records_dir": str(records_dir)}, run_dir="a/b")
    assert row(table, "run_dir").found.startswith(
        "--run_dir=a/b: cannot be written (Permission denied); mend"
    )
    assert row(table, "run").verdict is Verdict.UNCHECKED
    assert row(table, "records_dir").verdict is Verdict.NOTE
    assert row(ask(data={"records_dir": "a"}), "records_dir").verdict is Verdict.FAIL
    assert files(work) == [str(work / "file")]


def test_a_file_that_reads_back_changed_fails_and_is_removed(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.storage, "read_bytes", lambda path: b"other")
    with pytest.raises(SeamlineError, match="reads back other than it was written"):
        places.probe("some/folder", "run_dir")
    assert files(work) == []


def test_a_stage_dir_without_room_fails(
    records_dir: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"records_dir": str(records_dir)}
    assert row(ask(data=data, stage_dir="s/t"), "stage_dir").verdict is Verdict.OK
    assert row(ask(stage_dir="s/t"), "stage_dir").verdict is Verdict.NOTE
    remote = row(ask(data=data, stage_dir="gs://bucket/s"), "stage_dir")
    assert "must be a folder on a local disk" in remote.found
    usage = shutil.disk_usage(work)._replace(free=1000)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: usage)
    found = row(ask(data=data, stage_dir="s/t"), "stage_dir")
    assert found.verdict is Verdict.FAIL
    assert "give a larger disk" in found.found
    assert files(work) == []


def test_a_bucket_is_probed_by_both_clients_and_is_as_it_was(
    cloud: Cloud, bucket: str
) -> None:
    with cloud.watching() as seen:
        table = ask(data={"records_dir": f"{bucket}/r"}, run_dir=f"{bucket}/run")
    assert row(table, "records_dir").verdict is Verdict.OK
    assert row(table, "run_dir").found == (
        f"{bucket}/run: written, read and removed, by TensorFlow too"
    )
    assert {x.by_tensorflow for x in seen if x.makes("preflight-")} == {True, False}
    assert table.exit_code == 0
    assert cloud.names(bucket[len("gs://") :]) == []


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


def refusing(by_tensorflow: bool, status: int, *methods: str) -> Hook:
    """Answers one of the two clients with `status`, to some methods or to all."""

    def refuse(request: Request) -> int | None:
        meant = request.by_tensorflow == by_tensorflow
        return status if meant and request.method in (methods or METHODS) else None

    return refuse


def preflight(run_dir: str, work: Path) -> tuple[int, str]:
    """The exit code of the command and its row of `run_dir`.

    A file that TensorFlow could not write is tried again when it is forgotten, and
    nothing else of its process goes on meanwhile; so the gate must be in another one.
    """
    arguments = ("--dataset=sample", *SMALL, f"--run_dir={run_dir}")
    done = run_command("trainer.preflight", *arguments, cwd=work)
    [line] = [x for x in done.stdout.splitlines() if x.startswith("run_dir ")]
    return done.returncode, line


def test_missing_rights_to_write_to_a_bucket_fail(cloud: Cloud, bucket: str) -> None:
    with cloud.watching(refusing(False, 403, "POST", "PUT")):
        table = ask(run_dir=f"{bucket}/run")
    found = row(table, "run_dir")
    assert found.verdict is Verdict.FAIL
    assert found.found.startswith(f"{bucket}/run/preflight-")
    assert "no permission" in found.found
    assert cloud.names(bucket[len("gs://") :]) == []


def test_missing_rights_of_tensorflow_to_write_to_a_bucket_fail(
    cloud: Cloud, bucket: str, work: Path
) -> None:
    with cloud.watching(refusing(True, 403, "POST", "PUT")):
        code, line = preflight(f"{bucket}/run", work)
    assert code == 42
    assert line.split()[1] == "fail"
    assert f"{bucket}/run/preflight-" in line
    assert "no permission" in line
    assert cloud.names(bucket[len("gs://") :]) == []


def test_a_bucket_that_keeps_what_is_written_fails(cloud: Cloud, bucket: str) -> None:
    def forbid(request: Request) -> int | None:
        return 403 if request.method == "DELETE" else None

    with cloud.watching(forbid):
        found = row(ask(run_dir=f"{bucket}/run"), "run_dir")
    assert found.verdict is Verdict.FAIL
    assert "no permission" in found.found
    [left] = cloud.names(bucket[len("gs://") :])
    assert left in found.found


def test_a_bucket_that_does_not_exist_fails(cloud: Cloud) -> None:
    del cloud
    table = ask(run_dir="gs://no-such-bucket-here/run")
    assert row(table, "run_dir").verdict is Verdict.FAIL
    assert "there is no bucket 'no-such-bucket-here'" in row(table, "run_dir").found


def test_a_bucket_that_does_not_answer_may_be_tried_again(
    cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_client, "DEADLINE", 0.3)
    with cloud.watching(refusing(False, 503)):
        table = ask(run_dir=f"{bucket}/run")
    assert row(table, "run_dir").verdict is Verdict.RETRY
    assert "could not be reached" in row(table, "run_dir").found
    assert table.exit_code == 75


def test_a_bucket_that_does_not_answer_tensorflow_may_be_tried_again(
    cloud: Cloud, bucket: str, work: Path
) -> None:
    with cloud.watching(refusing(True, 503)):
        code, line = preflight(f"{bucket}/run", work)
    assert code == 75
    assert line.split()[1] == "retry"
    assert "could not be reached" in line
    assert cloud.names(bucket[len("gs://") :]) == []
