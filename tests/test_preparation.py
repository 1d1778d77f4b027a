import os
import shutil
from pathlib import Path

import pytest

from trainer.data import card as cards
from trainer.data import parts, preparation
from trainer.data.reader import Reader
from trainer.errors import SeamlineError


def asked(**changes: object) -> dict[str, object]:
    nothing = dict.fromkeys(preparation.NEW_RECORDS)
    return {"dataset": "auto", "records_dir": None, **nothing, **changes}


def test_records_that_are_there_need_no_dataset(records_dir: Path) -> None:
    found = preparation.prepare(**asked(records_dir=str(records_dir)))
    assert (found.records_dir, found.notice) == (str(records_dir), "")
    assert found.card == cards.read_card(str(records_dir))
    assert not found.made


def test_records_that_are_there_spare_the_download(
    records_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = preparation.prepare(**asked(records_dir=str(records_dir), dataset="ccp"))
    assert found.records_dir == str(records_dir)


def test_records_made_otherwise_than_asked_are_refused_with_both_values(
    records_dir: Path,
) -> None:
    with pytest.raises(SeamlineError, match=r"--record_size=64: .* made with 256"):
        preparation.prepare(**asked(records_dir=str(records_dir), record_size=64))


def test_records_of_another_dataset_are_refused(
    records_dir: Path, dataset: Path
) -> None:
    (dataset / "photos" / "0001.jpg").unlink()
    with pytest.raises(SeamlineError, match="whose files are not those of"):
        preparation.prepare(**asked(records_dir=str(records_dir), dataset=str(dataset)))


def test_without_a_records_dir_the_same_source_finds_its_records_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = preparation.prepare(**asked(dataset=str(drawn)))
    again = preparation.prepare(**asked(dataset=str(drawn)))
    other = preparation.prepare(**asked(dataset=str(drawn), record_size=64))
    assert (first.made, again.made, other.made) == (True, False, True)
    assert again.records_dir == first.records_dir != other.records_dir
    assert again.card == first.card


def test_without_a_records_dir_those_of_another_format_are_left_alone(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(cards, "FORMAT_VERSION", 2)
        old = preparation.prepare(**asked(dataset=str(drawn)))
    new = preparation.prepare(**asked(dataset=str(drawn)))
    assert new.made
    assert new.records_dir != old.records_dir
    with pytest.raises(SeamlineError, match="convert again into another folder"):
        preparation.prepare(**asked(records_dir=old.records_dir))


def test_a_split_by_lists_refuses_a_random_one(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("0002\n")
    layout = preparation.Layout(
        images_dir=str(drawn / "photos"),
        masks_dir=str(drawn / "annotations" / "pixel-level"),
        label_names=str(drawn / "label_list.mat"),
        val_ids=str(tmp_path / "val.txt"),
    )
    place = {"records_dir": str(tmp_path / "r"), "layout": layout}
    with pytest.raises(SeamlineError, match=r"--split_seed=1: .*lists of ids"):
        preparation.prepare(**asked(**place, split_seed=1))
    made = preparation.prepare(**asked(**place))
    assert made.card is not None
    assert list(Reader(made.records_dir, made.card, "val").ids) == ["0002"]
    assert not preparation.prepare(**asked(**place)).made
    with pytest.raises(SeamlineError, match=r"--split_seed=1: .*lists of ids"):
        preparation.prepare(**asked(records_dir=str(tmp_path / "r"), split_seed=1))


def test_a_conversion_that_was_killed_while_it_sealed_is_finished_by_a_reader(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "r")

    def killed(*unused: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(parts, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            preparation.prepare(**asked(dataset=str(drawn), records_dir=place))
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    found = preparation.prepare(**asked(records_dir=place))
    assert not found.made
    assert ".parts" not in os.listdir(place)
