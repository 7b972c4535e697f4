"""The key is made once, checked, replaced with the old one kept; the broker's table opens for the broker alone."""

import json
from pathlib import Path

import pytest
from dicom_builder import write_ct_series

from glint.cli.__main__ import main
from glint.core.ids import Pseudonyms, create_key, read_key


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys" / "key"
    monkeypatch.setenv("GLINT_DEID_KEY_FILE", str(file))
    assert main(["key", "create"]) == 0
    return file


def test_a_key_is_made_closed_and_never_replaced(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = read_key(key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert main(["key", "check"]) == 0
    assert main(["key", "create"]) == 1
    assert read_key(key) == first
    assert first.hex() not in "".join(capsys.readouterr())


def test_an_open_key_file_is_refused(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key.chmod(0o640)
    assert main(["key", "check"]) == 1
    assert "chmod 600" in capsys.readouterr().err


def test_a_key_inside_a_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "project" / ".git").mkdir(parents=True)
    assert main(["key", "create", "--key-file", str(tmp_path / "project" / "secrets" / "key")]) == 1
    assert "repository" in capsys.readouterr().err
    assert not (tmp_path / "project" / "secrets").exists()


@pytest.mark.parametrize(("place", "code"), [("secrets", 1), ("restricted/ct/00_demo", 0)])
def test_a_stage_takes_no_key_inside_a_repository_but_the_demos(
    place: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GLINT_DEID_KEY_FILE", raising=False)
    (tmp_path / ".git").mkdir()
    key = tmp_path / place / "key"
    create_key(key)
    write_ct_series(tmp_path / "raw")
    config = json.dumps({"raw_dirs": [str(tmp_path / "raw")], "num_shards": 1})
    command = ["index", "images", "--out", str(tmp_path / "index"), "--key-file", str(key), "--config", config]
    assert main(command) == code
    assert ("repository" in capsys.readouterr().err) == bool(code)


def test_rotation_keeps_the_old_key_and_says_what_follows(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = read_key(key)
    assert main(["key", "rotate"]) == 0
    (kept,) = key.parent.glob("key.old-*")
    assert read_key(kept) == old != read_key(key)
    assert Pseudonyms(old).uid("1.2.3") != Pseudonyms(read_key(key)).uid("1.2.3")
    assert "run stages 02 and later again" in capsys.readouterr().err


def test_the_brokers_table_is_encrypted_and_lies_only_below_restricted(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    assert main(["index", "images", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "index")]) == 0
    broker = str(tmp_path / "keys" / "broker")
    command = ["key", "table", "--studies", str(tmp_path / "index" / "studies.parquet"), "--broker-key-file", broker]
    assert main([*command, "--out", str(tmp_path / "results" / "table")]) == 1
    assert not (tmp_path / "results").exists()
    out = tmp_path / "restricted" / "table"
    assert main([*command, "--out", str(out)]) == 0
    assert b"MRN4471902" not in out.read_bytes() and out.stat().st_mode & 0o077 == 0
    capsys.readouterr()
    assert main(["key", "open", str(out), "--broker-key-file", broker]) == 0
    opened = capsys.readouterr().out
    assert "MRN4471902" in opened and Pseudonyms(read_key(key)).patient_id("MRN4471902") in opened
    (tmp_path / "keys" / "broker").unlink()
    other = tmp_path / "keys" / "other"
    assert main([*command[:-1], str(other), "--out", str(tmp_path / "restricted" / "two")]) == 0
    assert main(["key", "open", str(out), "--broker-key-file", str(other)]) == 1
