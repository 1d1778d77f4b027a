"""What would stop a training is found before it starts, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cgroups import memory_group
from tests.conftest import ROOT, SMALL, SMALL_REAL, run_command
from tests.preflight import ask, empty_place, files, row  # noqa: F401
from tests.tiny import TINY
from trainer.checks import hardware, suite
from trainer.checks.table import Table, Verdict
from trainer.engine import strategy
from trainer.errors import SeamlineError
from trainer.model import encoders


def test_what_fails_ends_in_42_even_where_something_else_may_be_tried_again() -> None:
    table = Table()
    table.add("one", Verdict.OK, "fine")
    table.add("other", Verdict.UNCHECKED, "no GPU")
    assert table.exit_code == 0
    assert table.lines() == [
        "check               found",
        "one    ok           fine",
        "other  not checked  no GPU",
        "verdict: nothing found that would stop the training (1 ok, 1 not checked)",
    ]
    table.add("bucket", Verdict.RETRY, "away")
    assert table.exit_code == 75
    assert table.lines()[-1] == "verdict: try again later: bucket (exit code 75)"
    table.add("card", Verdict.FAIL, "altered;\n  convert again")
    assert table.exit_code == 42
    assert table.lines()[-1] == "verdict: will not work: card (exit code 42)"
    assert "card    fail         altered;\n" + " " * 21 + "convert again" in (
        "\n".join(table.lines())
    )


def test_an_error_that_nothing_explains_is_no_row() -> None:
    with pytest.raises(ZeroDivisionError), Table().checking("sum"):
        print(1 / 0)


@pytest.mark.parametrize(
    ("recipe", "found"),
    [
        ({"image_size": 100}, "--image_size=100: must be a multiple of 32"),
        ({"loss": "magic"}, "--loss=magic: no loss 'magic'"),
        ({"augment": "magic"}, "--augment=magic: no policy"),
        ({"encoder": "vgg99"}, "--encoder=vgg99: no such encoder"),
    ],
)
def test_values_that_cannot_work_fail_and_all_else_is_checked_still(
    recipe: dict[str, Any], found: str, records_dir: Path
) -> None:
    table = ask(recipe, {"records_dir": str(records_dir)})
    assert table.exit_code == 42
    assert row(table, "recipe").verdict is Verdict.FAIL
    assert row(table, "recipe").found.startswith(found)
    assert row(table, "records").verdict is Verdict.OK
    for check in ("memory", "encoder", "run"):
        assert row(table, check).verdict is Verdict.UNCHECKED


def test_flags_of_a_dataset_that_do_not_go_together_fail() -> None:
    def refuse() -> dict[str, Any]:
        raise SeamlineError("--masks_dir=m: goes with --images_dir")

    table = ask(data=refuse)
    assert row(table, "dataset").found == "--masks_dir=m: goes with --images_dir"
    assert row(table, "records").verdict is Verdict.UNCHECKED
    assert table.exit_code == 42


def test_replicas_that_cannot_share_the_batch_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suite, "local_devices", lambda *_, **__: ["/cpu:0", "/cpu:1"])
    assert row(ask(), "devices").verdict is Verdict.OK
    found = row(ask({"batch_size": 3}), "devices")
    assert found.verdict is Verdict.FAIL
    assert found.found.startswith("--batch_size=3: must be a multiple of the 2")
    idle = row(ask({"batch_size": 3}, strategy="one_device"), "devices")
    assert idle.verdict is Verdict.NOTE
    assert idle.found == "--strategy=one_device: /cpu:0; other devices stay idle"


def test_options_that_do_not_work_on_so_many_replicas_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suite, "local_devices", lambda *_, **__: ["/cpu:0", "/cpu:1"])
    assert row(ask({"accumulate": 2}), "devices").verdict is Verdict.OK
    for found in (
        row(ask(xla="true"), "devices"),
        row(ask({"batch_size": 6, "accumulate": 2}), "devices"),
    ):
        assert found.verdict is Verdict.FAIL
        assert found.found.startswith(("--xla=true: ", "--accumulate=2: 2 replicas"))


def test_workers_that_the_environment_names_share_the_batch_and_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = ["localhost:1", "localhost:2", "localhost:3"]
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    found = row(ask(), "devices")
    assert found.verdict is Verdict.FAIL
    assert found.found.startswith("--batch_size=4: must be a multiple of the 3")
    found = row(ask({"batch_size": 6}), "devices")
    assert found.verdict is Verdict.OK
    assert "3 workers, the others not looked at" in found.found
    alone = row(ask(strategy="one_device"), "devices")
    assert alone.verdict is Verdict.FAIL
    assert "names 3 workers, and each would train alone" in alone.found


def test_a_strategy_for_gpus_that_tensorflow_does_not_see_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "DRIVER", str(tmp_path))
    found = row(ask(strategy="mirrored"), "devices")
    assert found.verdict is Verdict.FAIL
    assert "says that there are GPUs, but TensorFlow sees none" in found.found


def test_a_pod_that_asks_for_no_gpu_trains_on_the_cpu_of_a_gpu_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "DRIVER", str(tmp_path))
    monkeypatch.setenv("SEAMLINE_GPUS", "0")
    table = ask(strategy="mirrored", gpus=0)
    for check in ("GPUs", "devices"):
        assert row(table, check).verdict is Verdict.OK
    monkeypatch.setenv("SEAMLINE_GPUS", "1")
    assert row(ask(strategy="mirrored"), "devices").verdict is Verdict.FAIL


def test_gpus_beside_a_cpu_that_is_split_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPUs are a substituted reading."""
    gpus = [hardware.Gpu("H100", (9, 0))] * 3
    monkeypatch.setattr(hardware, "seen", lambda: gpus)
    found = row(ask(num_virtual_devices=2), "devices")
    assert found.verdict is Verdict.NOTE
    assert found.found == "--strategy=auto: /cpu:0, /cpu:1; other devices stay idle"


def test_weights_by_name_may_be_tried_again_and_auto_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert row(ask(), "encoder").verdict is Verdict.OK
    found = row(ask({"encoder_weights": "imagenet"}), "encoder")
    assert found.verdict is Verdict.RETRY
    assert row(ask({"encoder_weights": "auto"}), "encoder").verdict is Verdict.NOTE
    lost = row(ask({"encoder_weights": "/nowhere.h5"}), "encoder")
    assert lost.verdict is Verdict.FAIL
    monkeypatch.setattr(encoders, "imagenet_available", lambda name, **_: True)
    assert row(ask({"encoder_weights": "auto"}), "encoder").verdict is Verdict.OK


def test_a_run_directory_that_holds_another_run_fails(
    finished_run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoders.ENCODERS, "tiny", TINY)
    recipe = {"encoder": "tiny"}
    place = finished_run.parent.parent / "records"
    [records] = place.iterdir()
    data = {"dataset": str(drawn), "records_dir": str(records)}
    before = files(finished_run)
    same = row(ask(recipe, data=data, run_dir=str(finished_run)), "run")
    assert same.verdict is Verdict.OK
    assert same.found == f"{finished_run}: holds this run, which goes on"
    other = row(ask(recipe, data=data, run_dir=str(finished_run), seed=7), "run")
    assert other.verdict is Verdict.FAIL
    assert "holds another run (seed: 0 there, 7 now)" in other.found
    never = row(
        ask(recipe, data=data, run_dir=str(finished_run), resume="never"), "run"
    )
    assert never.found.startswith("--resume=never: ")
    unknown = row(ask(recipe, run_dir=str(finished_run)), "run")
    assert unknown.verdict is Verdict.UNCHECKED
    assert files(finished_run) == before


def test_a_real_container_that_is_too_small_fails(
    records_dir: Path, work: Path
) -> None:
    flags = (f"--records_dir={records_dir}", *SMALL_REAL, "--image_size=512")
    command = [sys.executable, "-m", "trainer.preflight", *flags, "--batch_size=64"]
    with memory_group(1500 << 20) as group:
        done = subprocess.run(
            [*group.prefix, *command],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 42, done.stdout + done.stderr
    [line] = [x for x in done.stdout.splitlines() if x.startswith("memory")]
    assert "limit 1500 MB (container limit (cgroup))" in line
    assert "verdict: will not work: memory (exit code 42)" in done.stdout


def test_the_command_takes_the_flags_of_a_training_and_leaves_nothing(
    records_dir: Path, work: Path
) -> None:
    done = run_command(
        *("trainer.preflight", f"--records_dir={records_dir}", *SMALL, "--gpus=2"),
        *("--num_virtual_devices=2", "--save_minutes=1", "--run_dir=runs/a"),
        cwd=work,
    )
    assert done.returncode == 42, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "verdict: will not work: GPUs (exit code 42)"
    [devices] = [line for line in lines if line.startswith("devices")]
    assert devices.split()[1:] == ["ok", "--strategy=auto:", "/cpu:0,", "/cpu:1"]
    assert done.stderr == ""
    assert files(work) == []
