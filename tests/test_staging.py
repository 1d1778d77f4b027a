import shutil
from pathlib import Path

import pytest

from trainer import storage
from trainer.data import card as cards
from trainer.data import staging, verification
from trainer.errors import SeamlineError

VAL_INDEX = "val-00000-of-00001.index.json"


def stage(records_dir: Path, stage_dir: Path) -> Path:
    card = cards.read_card(str(records_dir))
    return Path(staging.stage(str(records_dir), card, str(stage_dir)))


def test_the_copy_is_the_dataset(records_dir: Path, tmp_path: Path) -> None:
    copy = stage(records_dir, tmp_path)
    verification.verify(str(copy))
    for name in ("card.json", "train-00000-of-00001.tfrecord", VAL_INDEX):
        assert (copy / name).read_bytes() == (records_dir / name).read_bytes()


@pytest.mark.parametrize("name", ["val-00000-of-00001.tfrecord", VAL_INDEX])
def test_files_that_are_there_are_used_again_and_damaged_ones_fetched(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copy = stage(records_dir, tmp_path)
    fetched: list[str] = []
    real = storage.download
    monkeypatch.setattr(
        storage,
        "download",
        lambda path, local: fetched.append(Path(path).name) or real(path, local),
    )
    stage(records_dir, tmp_path)
    assert fetched == []
    val = copy / name
    damaged = bytearray(val.read_bytes())
    damaged[100] ^= 1
    val.write_bytes(damaged)
    stage(records_dir, tmp_path)
    assert fetched == [val.name]
    verification.verify(str(copy))


@pytest.mark.parametrize("name", ["val-00000-of-00001.tfrecord", VAL_INDEX])
def test_a_file_that_differs_from_its_checksum_is_not_kept(
    records_dir: Path, tmp_path: Path, name: str
) -> None:
    there = Path(shutil.copytree(records_dir, tmp_path / "records"))
    val = there / name
    damaged = bytearray(val.read_bytes())
    damaged[100] ^= 1
    val.write_bytes(damaged)
    with pytest.raises(SeamlineError, match=r"val-.*differ from the card's checksum"):
        stage(there, tmp_path / "disk")
    kept = [path.name for path in (tmp_path / "disk").rglob("*") if path.is_file()]
    assert val.name not in kept
    assert "card.json" not in kept


def test_two_datasets_do_not_meet_in_one_stage_dir(
    records_dir: Path, tmp_path: Path
) -> None:
    first = stage(records_dir, tmp_path)
    card = cards.read_card(str(records_dir))
    other = cards.Card(
        **{
            **{name: getattr(card, name) for name in card.__dataclass_fields__},
            "source": {"name": "other", "listing": "x"},
        }
    )
    assert staging.stage(str(records_dir), other, str(tmp_path)) != str(first)


def test_a_remote_stage_dir_is_refused(records_dir: Path) -> None:
    card = cards.read_card(str(records_dir))
    with pytest.raises(SeamlineError, match=r"--stage_dir=gs://b: must be .* local"):
        staging.stage(str(records_dir), card, "gs://b")
