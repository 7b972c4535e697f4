"""Archives are read in place, whole or not at all, and what lies beside DICOM files is named."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import polars as pl
import pytest
from dicom_builder import write_ct_series
from pydicom.fileset import FileSet
from test_index import PSEUDONYMS, inventory, verdict

import glint.formats.archives as archives
import glint.prepare.index.scan as scan
from glint.cli.__main__ import main
from glint.core.config.index import IndexConfig
from glint.core.errors import Quarantine
from glint.formats.archives import list_members, raw_bytes
from glint.formats.header_cache import located
from glint.prepare.index.images import index_images


def pack(source: Path, archive: Path) -> Path:
    """`source` as zip, tar or tar.gz, told by the name; members keep a folder."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for file in files:
                out.write(file, f"study/{file.relative_to(source)}")
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as out:
            for file in files:
                out.add(file, f"study/{file.relative_to(source)}")
    return archive


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_ct_series(tmp_path / "unpacked")
    return tmp_path / "unpacked"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "no_suffix"])
def test_a_series_in_an_archive_is_the_series_in_a_folder(tmp_path: Path, series: Path, name: str) -> None:
    made = pack(series, tmp_path / "packed" / (name if name != "no_suffix" else "a.zip"))
    made.rename(made.with_name(name))
    inside, outside = inventory(tmp_path / "packed"), inventory(series)
    assert verdict(inside.series) == ("volume", None, 8)
    assert inside.series.equals(outside.series) and inside.studies.equals(outside.studies)
    assert inside.instances.drop("file").equals(outside.instances.drop("file"))
    assert inside.instances["file"].str.starts_with(f"0/{name}!/study/IM").all()
    for file in inside.instances["file"]:
        place = f"{tmp_path}/packed/{file[2:]}"
        assert raw_bytes(place) == (series / Path(file).name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "packed").rglob("*")) == [name]  # nothing was unpacked


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_stage_02_reads_members_and_writes_what_it_would_from_a_folder(tmp_path: Path, series: Path, name: str) -> None:
    pack(series, tmp_path / "packed" / name)
    key, config, written = tmp_path / "key", json.dumps({"num_shards": 1}), []
    for raw in (tmp_path / "packed", series):
        index, out = tmp_path / f"index-{raw.name}", tmp_path / f"out-{raw.name}" / "manifest.parquet"
        common = ["--key-file", str(key)]
        create = ["--create-key"] if not key.exists() else []
        made = ["index", "images", "--raw", str(raw), "--out", str(index), *common, *create, "--config", config]
        assert main(made) == 0
        assert main(["deidentify", "images", "--index", str(index / "shard-000"), "--out", str(out), *common]) == 0
        assert pl.read_parquet(out)["status"].to_list() == ["ok"]
        written.append({file.name: file.read_bytes() for file in out.parent.rglob("*.dcm")})
    assert len(written[0]) == 8 and written[0] == written[1]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_may_be_named_instead_of_a_folder(tmp_path: Path, series: Path, name: str) -> None:
    archive = pack(series, tmp_path / name)
    index_images([archive], tmp_path / "index", IndexConfig(num_shards=1), PSEUDONYMS, workers=1)
    table = pl.read_parquet(tmp_path / "index" / "shard-000" / "instances.parquet")
    assert table["file"][0].startswith("0/!/study/IM")
    contents = {raw_bytes(file) for file in located(table, [archive])["file"]}
    assert contents == {file.read_bytes() for file in series.iterdir()}


def set_encrypted(archive: Path) -> None:
    """Flag bit 0 of every entry, in local headers and directory: what a password leaves. Source: APPNOTE 4.4.4."""
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 4)
    archive.write_bytes(content)


def damage(archive: Path, how: str) -> None:
    content = archive.read_bytes()
    if how == "encrypted":
        set_encrypted(archive)
    elif how == "cut":
        archive.write_bytes(content[: len(content) * 2 // 3])
    elif how == "header":  # of the third member: tarfile would end its list there without a word
        with tarfile.open(archive) as opened:
            place = opened.getmembers()[2].offset
        archive.write_bytes(content[:place] + b"\x55" * 300 + content[place + 300 :])
    elif how == "names":
        with zipfile.ZipFile(archive, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("study/IM0001", b"another")


@pytest.mark.parametrize(
    ("name", "how", "reason"),
    [
        ("a.zip", "encrypted", "archive_encrypted"),
        ("a.zip", "cut", "archive_broken"),
        ("a.tar", "cut", "archive_broken"),
        ("a.tar.gz", "cut", "archive_broken"),
        ("a.tar", "header", "archive_broken"),
        ("a.zip", "names", "archive_repeated_names"),
    ],
)
def test_a_damaged_archive_is_set_aside_whole(tmp_path: Path, series: Path, name: str, how: str, reason: str) -> None:
    damage(pack(series, tmp_path / "raw" / name), how)
    write_ct_series(tmp_path / "raw" / "other", study=2)
    found = inventory(tmp_path / "raw")
    assert found.quarantine.select("level", "item", "reason").rows() == [("file", f"0/{name}", reason)]
    assert found.studies.height == 1


@pytest.mark.parametrize("first", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x00", b"BZh91AY", b"\xfd7zXZ\x00"])
def test_an_archive_that_is_not_read_is_named(tmp_path: Path, series: Path, first: bytes) -> None:
    (series / "old.archive").write_bytes(first + b"\0" * 600)
    assert inventory(series).quarantine["reason"].to_list() == ["archive_unsupported"]


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_a_bomb_is_refused_before_it_swells(
    tmp_path: Path, series: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 1 << 20)
    zeros = b"\0" * (1 << 23)
    if name.endswith("zip"):
        with zipfile.ZipFile(series / name, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("IM", b"\0" * 128 + b"DICM" + zeros)
    else:
        with tarfile.open(series / name, "w:gz") as out:
            entry = tarfile.TarInfo("IM")
            entry.size = len(zeros)
            out.addfile(entry, io.BytesIO(zeros))
    found = inventory(series)
    assert found.quarantine["reason"].to_list() == ["archive_bomb"]
    assert verdict(found.series) == ("volume", None, 8)


def test_an_archive_in_an_archive_is_named_and_the_rest_is_read(tmp_path: Path, series: Path) -> None:
    shutil.copytree(series, tmp_path / "more")
    pack(series, tmp_path / "more" / "inner.zip")
    pack(tmp_path / "more", tmp_path / "raw" / "outer.tar")
    found = inventory(tmp_path / "raw")
    assert found.quarantine.select("item", "reason").rows() == [("0/outer.tar!/study/inner.zip", "nested_archive")]
    assert verdict(found.series) == ("volume", None, 8)


def test_a_member_with_a_wrong_checksum_is_unreadable_and_named(tmp_path: Path, series: Path) -> None:
    archive = tmp_path / "raw" / "a.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for file in sorted(series.iterdir()):
            out.write(file, file.name)
    content = bytearray(archive.read_bytes())
    end = zipfile.ZipFile(archive).getinfo("IM0004").header_offset
    content[end - 400 : end] = b"\1" * 400
    archive.write_bytes(content)
    found = inventory(tmp_path / "raw")
    assert found.quarantine.select("item", "reason").rows() == [("0/a.zip!/IM0003", "unreadable")]


def test_a_member_that_climbs_out_of_its_archive_is_only_a_name(tmp_path: Path, series: Path) -> None:
    archive = tmp_path / "raw" / "a.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as out:
        for file in series.iterdir():
            out.writestr(f"../../../{file.name}", file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert verdict(inventory(tmp_path / "raw").series) == ("volume", None, 8)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_looks_like_a_member_is_a_folder(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "scans!" / "a")
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    assert raw_bytes(f"{tmp_path}/{found.instances['file'][0][2:]}")
    with pytest.raises(OSError, match="No such file"):
        raw_bytes(tmp_path / "absent.zip!" / "a")


def test_a_member_that_is_gone_is_a_quarantine(tmp_path: Path, series: Path) -> None:
    archive = pack(series, tmp_path / "a.zip")
    assert len(list_members(archive)) == 8
    with pytest.raises(Quarantine) as caught:
        raw_bytes(f"{archive}!/study/absent")
    assert caught.value.reason == "unreadable"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose header is parsed from here on, members of archives included."""
    files: list[str] = []
    real = scan._read

    def read(file, roots):
        files.append(file.source)
        return real(file, roots)

    monkeypatch.setattr(scan, "_read", read)
    return files


def index(raw: Path, out: Path):
    return index_images([raw], out, IndexConfig(num_shards=1), PSEUDONYMS, workers=1)


def test_an_archive_is_read_once_and_again_when_it_is_replaced(tmp_path: Path, series: Path, parsed: list[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "index"
    archive = pack(series, raw / "a.zip")
    index(raw, out)
    assert len(parsed) == 9
    parsed.clear()
    assert index(raw, out).shards_made == () and parsed == []
    os.utime(archive, ns=(1, 1))
    assert index(raw, out).studies.height == 1 and len(parsed) == 9
    archive.unlink()
    write_ct_series(raw / "b", study=2)
    assert index(raw, out).studies.height == 1


def test_a_scan_killed_inside_an_archive_goes_on_where_it_was(
    tmp_path: Path, series: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "index"
    pack(series, raw / "a.tar")
    monkeypatch.setattr(scan, "FILES_AT_A_TIME", 3)
    counting = scan._read

    def killed(file, roots):
        if len(parsed) == 6:
            raise KeyboardInterrupt
        return counting(file, roots)

    monkeypatch.setattr(scan, "_read", killed)
    with pytest.raises(KeyboardInterrupt):
        index(raw, out)
    monkeypatch.setattr(scan, "_read", counting)
    parsed.clear()
    assert index(raw, out).studies["num_instances"].to_list() == [8]
    assert len(parsed) == 6  # the archive, and five of eight members: three were kept


def test_copies_in_a_folder_and_an_archive_are_dropped(tmp_path: Path, series: Path) -> None:
    pack(series, series / "z.zip")
    found = inventory(series)
    assert verdict(found.series) == ("volume", None, 8)
    assert found.quarantine["item"].str.starts_with("0/z.zip!/").all() and found.quarantine.height == 8


def test_what_lies_beside_the_images_is_named_and_no_error(tmp_path: Path, series: Path) -> None:
    media = FileSet()
    for file in sorted(series.iterdir()):
        media.add(file)
    media.write(tmp_path / "cd")
    clutter = {
        "README.TXT": (b"Viewer for Windows\r\n", "text"),
        "AUTORUN.INF": (b"[autorun]\r\nopen=viewer.exe", "text"),
        "viewer.exe": (b"MZ\x90\0\3\0\0\0", "program"),
        "thumb.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "picture"),
        "key.png": (b"\x89PNG\r\n\x1a\n", "picture"),
        "report.pdf": (b"%PDF-1.4 \xe2\xe3", "document"),
        ".DS_Store": (b"\0\0\0\1Bud1", "folder_settings"),
        "empty": (b"", "empty"),
        "cache.bin": (bytes(range(200)), "other"),
        "volume.nii.gz": (gzip.compress(b"\x5c\1\0\0" + b"\0" * 600), "packed_file"),
    }
    for name, (content, _) in clutter.items():
        (tmp_path / "cd" / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "cd" / "letter.docx", "w") as out:
        out.writestr("[Content_Types].xml", "<Types/>")
    (tmp_path / "cd" / "one.dcm.gz").write_bytes(gzip.compress(next(series.iterdir()).read_bytes()))
    found = index(tmp_path / "cd", tmp_path / "index")
    expected = {f"0/{name}": kind for name, (_, kind) in clutter.items()}
    expected |= {"0/DICOMDIR": "media_directory", "0/letter.docx": "document"}
    assert dict(found.others.iter_rows()) == expected
    assert found.quarantine.select("item", "reason").rows() == [("0/one.dcm.gz", "packed_dicom")]
    assert found.series["num_instances"].to_list() == [8]


def test_every_reason_of_an_archive_is_explained() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "inventory.md").read_text(encoding="utf-8")
    reasons = set(re.findall(r'Quarantine\(\s*"(\w+)"', Path(archives.__file__).read_text(encoding="utf-8")))
    assert len(reasons) >= 6 and all(f"`{reason}`" in text for reason in reasons)
