import json
import re
from pathlib import Path

import pytest

from tests.conftest import SMALL, run_command
from trainer.benchmarks import memory

HOG = """
import multiprocessing
def hold(size):
    return len(bytearray(size))
if __name__ == "__main__":
    hold(300 << 20)
    spawn = multiprocessing.get_context("spawn")
    worker = spawn.Process(target=hold, args=(200 << 20,))
    worker.start()
    worker.join()
"""


def test_a_conversion_is_measured_beside_its_floor(drawn: Path, tmp_path: Path) -> None:
    arguments = ("--what=convert", f"--dataset={drawn}", "--repeats=1", "--json=b.json")
    done = run_command("trainer.benchmark", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    assert set(content) == {
        *("command", "recipe", "commit", "machine", "date", "versions"),
        "measurements",
    }
    assert content["command"].endswith(" ".join(arguments))
    rows = {row["name"]: row for row in content["measurements"]}
    assert all(set(row) == {"name", "value", "unit", "detail"} for row in rows.values())
    seconds = rows["convert.seconds"]["value"]
    floor = rows["convert.decode_floor_seconds"]["value"]
    ratio = rows["convert.vs_decode_floor"]
    assert ratio["value"] == pytest.approx(seconds / floor)
    assert ratio["unit"] == ""
    assert 100 < rows["convert.peak_memory_mb"]["value"] < 4000
    assert "140 pairs" in rows["convert.peak_memory_tenfold_mb"]["detail"]
    assert re.search(r"^convert.vs_decode_floor +\d", done.stdout, re.MULTILINE)


def test_the_input_and_what_a_step_waits_for_it_are_measured(
    records_dir: Path, tmp_path: Path
) -> None:
    arguments = (f"--records_dir={records_dir}", "--repeats=1", "--json=b.json")
    done = run_command(
        "trainer.benchmark", "--what=input", *arguments, *SMALL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The devices come first, and once: later TensorFlow's threads cannot be fitted.
    said = re.findall(r"^[\d:]+ (Devices|Input):", done.stdout, re.MULTILINE)
    assert said[0] == "Devices"
    assert said.count("Devices") == 1
    content = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row["value"] for row in content["measurements"]}
    for place in ("memory", "streamed"):
        for station in ("fetch", "fetch_augment", "plain", "everything"):
            assert rows[f"input.{place}.{station}"] > 0
    core = rows["input.images_per_second_per_core"]
    assert core < rows["input.memory_copy"] * 2
    assert rows["input.augmented_vs_plain"] > 0
    assert 0 <= rows["train.input_wait_fraction"] <= 1
    assert rows["train.real_vs_cached"] > 0
    profile = [name for name in rows if name.startswith("input.profile.")]
    assert len(profile) == 5


def test_prediction_is_measured_beside_the_bare_model(
    drawn: Path, tmp_path: Path
) -> None:
    arguments = (f"--dataset={drawn}", "--repeats=1", "--json=b.json")
    done = run_command(
        "trainer.benchmark", "--what=predict", *arguments, *SMALL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row["value"] for row in content["measurements"]}
    whole, bare = (
        rows["predict.images_per_second"],
        rows["predict.model_images_per_second"],
    )
    assert rows["predict.vs_model"] == pytest.approx(whole / bare)
    assert 0 < rows["predict.vs_model"] < 1.5


def test_the_start_on_records_of_many_shards_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--shards=30", "--input_memory_mb=8", "--json=b.json")
    work = tmp_path / "work"
    work.mkdir()
    before = work.stat().st_mtime_ns
    monkeypatch.setenv("TMPDIR", str(work))
    done = run_command(
        "trainer.benchmark", "--what=scale", *arguments, *SMALL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"].removeprefix("scale."): row for row in content["measurements"]}
    values = {name: row["value"] for name, row in rows.items()}
    assert set(values) == {
        *("card_megabytes", "card_seconds", "order_seconds", "start_seconds"),
        *("open_seconds", "batch_seconds", "peak_memory_mb"),
    }
    assert rows["card_megabytes"]["detail"].endswith("30 shards, 30,000 examples")
    # A line for each shard and nothing for an example.
    assert 30 * 300 < values["card_megabytes"] * 1e6 < 31 * 400 + 20_000
    parts = (values[f"{name}_seconds"] for name in ("card", "open", "order"))
    assert 0 < sum(parts) < values["start_seconds"]
    assert 100 < values["peak_memory_mb"] < 4000
    assert values["batch_seconds"] > 0
    # The records were there, and are gone.
    assert work.stat().st_mtime_ns > before
    assert list(work.iterdir()) == []


def test_peak_memory_counts_the_processes_that_a_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hog.py").write_text(HOG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peak = memory.peak_memory_mb(["hog"])
    assert 500 < peak < 700
