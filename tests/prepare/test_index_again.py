"""A second index does again only what changed: which files are opened, and which tables' bytes differ."""

import os
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest
from dicom_builder import write_ct_series
from hypothesis import given, settings
from hypothesis import strategies as st

import glint.prepare.index.header_store as header_store
import glint.prepare.index.scan as scan
from glint.core.config.index import IndexConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.formats.header_cache import located
from glint.prepare.index.images import IndexedImages, index_images
from glint.prepare.index.reports import index_reports

PSEUDONYMS = Pseudonyms(b"k" * 32)
SHARDS = 3
TABLES = ("studies", "series", "instances", "quarantine")


def put_study(raw: Path, study: int, *, num_slices: int = 2, **elements: str) -> None:
    elements = {"AccessionNumber": f"A{study}", "PatientID": f"P{study}"} | elements
    write_ct_series(raw / str(study), study=study, num_slices=num_slices, rows=2, columns=2, **elements)


def index(raw: Path, out: Path, num_shards: int = SHARDS, key: Pseudonyms = PSEUDONYMS) -> IndexedImages:
    return index_images([raw], out, IndexConfig(num_shards=num_shards), key, workers=1)


def shard_tables(out: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every table of a shard."""
    files = list(out.glob("shard-*/*.parquet"))
    return {path.relative_to(out).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def shards_touched(before: dict[str, tuple[bytes, int]], out: Path) -> set[str]:
    after = shard_tables(out)
    return {name.split("/")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def rows(out: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the tables say, whatever shard it lies in."""
    frames = {
        name: pl.concat([pl.read_parquet(path) for path in out.glob(f"shard-*/{name}.parquet")]) for name in TABLES
    }
    return {name: sorted(map(repr, frame.drop("shard", strict=False).rows())) for name, frame in frames.items()}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths whose header is read from here on."""
    paths: list[str] = []
    real = scan.read_header

    def read(path: str) -> object:
        paths.append(path)
        return real(path)

    monkeypatch.setattr(scan, "read_header", read)
    return paths


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path]:
    raw, out = tmp_path / "raw", tmp_path / "index"
    for study in range(1, 8):
        put_study(raw, study)
    (raw / "notes.txt").write_text("not an image")
    (raw / "broken").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00XX\xff\xff" + b"\x13" * 40)
    index(raw, out)
    return raw, out


def test_a_second_index_opens_nothing_and_changes_nothing(cohort, opened):
    raw, out = cohort
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert index(raw, out).shards_made == ()
    assert opened == []
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()} == before


def test_one_study_more_is_opened_alone_and_touches_one_shard(cohort, opened):
    raw, out = cohort
    before = shard_tables(out)
    put_study(raw, 9)
    found = index(raw, out)
    assert sorted(Path(path).parent.name for path in opened) == ["9", "9"]
    assert len(shards_touched(before, out)) == 1 and found.studies.height == 8


def test_one_study_fewer_touches_its_own_shard(cohort, opened):
    raw, out = cohort
    before = shard_tables(out)
    home = pl.read_parquet(out / "studies.parquet").filter(pl.col("accession") == "A4")["shard"].item()
    shutil.rmtree(raw / "4")
    assert index(raw, out).studies.height == 6
    assert shards_touched(before, out) == {home} and opened == []


def test_a_replaced_file_is_read_again_and_touches_its_own_shard(cohort, opened):
    raw, out = cohort
    before = shard_tables(out)
    put_study(raw, 5, StudyDate="20200202")
    found = index(raw, out)
    row = found.studies.filter(pl.col("accession") == "A5").row(0, named=True)
    assert "20200202" in row["study_dates"]
    assert len(opened) == 2 and shards_touched(before, out) == {row["shard"]}


def test_a_file_of_new_time_and_old_content_is_read_again_and_touches_nothing(cohort, opened):
    raw, out = cohort
    before = shard_tables(out)
    file = next((raw / "5").iterdir())
    os.utime(file, ns=(1, 1))
    index(raw, out)
    assert opened == [str(file.resolve())] and shards_touched(before, out) == set()


def test_raw_folders_that_moved_are_not_read_again(cohort, opened, tmp_path):
    raw, out = cohort
    raw.rename(tmp_path / "elsewhere")
    found = index(tmp_path / "elsewhere", out)
    tables = pl.concat([pl.read_parquet(path) for path in out.glob("shard-*/instances.parquet")])
    files = located(tables, [tmp_path / "elsewhere"])["file"]
    assert opened == [] and found.studies.height == 7
    assert found.shards_made == ()
    assert all(Path(file).is_file() for file in files)


def test_two_workspaces_hold_the_same_bytes_wherever_their_raw_folders_lie(cohort, tmp_path):
    raw, out = cohort
    shutil.copytree(raw, tmp_path / "other" / "place")
    index(tmp_path / "other" / "place", tmp_path / "second")
    tables = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("shard-*/*.parquet")}
    assert {name: (tmp_path / "second" / name).read_bytes() for name in tables} == tables
    with pytest.raises(InputError, match="name with --raw"):
        located(pl.read_parquet(next(path for path in out.glob("shard-*/instances.parquet"))), [])


def test_a_killed_scan_goes_on_where_it_was(tmp_path, monkeypatch, opened):
    raw, out = tmp_path / "raw", tmp_path / "index"
    for study in range(1, 6):
        put_study(raw, study)
    monkeypatch.setattr(scan, "FILES_AT_A_TIME", 4)
    counting = scan.read_header

    def killed(path: str) -> object:
        if len(opened) == 6:
            raise KeyboardInterrupt
        return counting(path)

    monkeypatch.setattr(scan, "read_header", killed)
    with pytest.raises(KeyboardInterrupt):
        index(raw, out)
    monkeypatch.setattr(scan, "read_header", counting)
    opened.clear()
    assert index(raw, out).studies.height == 5
    assert len(opened) == 6  # ten files, four of them kept
    fresh = tmp_path / "fresh"
    index(raw, fresh)
    assert rows(out) == rows(fresh)


def test_a_lost_or_damaged_table_is_made_again(cohort):
    raw, out = cohort
    before = {name: content for name, (content, _) in shard_tables(out).items()}
    (out / "shard-001" / "series.parquet").unlink()
    (out / "shard-001" / "studies.parquet").unlink()
    (out / "shard-002" / "studies.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="not a readable Parquet"):
        index(raw, out)  # a damaged table would forget which shard its studies are in
    (out / "shard-002" / "studies.parquet").write_bytes(before["shard-002/studies.parquet"])
    assert index(raw, out).shards_made == ("shard-001",)
    assert {name: content for name, (content, _) in shard_tables(out).items()} == before


def test_another_key_or_number_of_shards_opens_no_file(cohort, opened):
    raw, out = cohort
    other = Pseudonyms(b"j" * 32)
    found = index(raw, out, num_shards=2, key=other)
    assert opened == []
    assert set(found.studies["study_id"]) == {other.study_id(uid) for uid in found.studies["study_uid"]}
    assert {path.name for path in out.glob("shard-*")} == {"shard-000", "shard-001"}
    assert found.studies["shard"].value_counts()["count"].sort().to_list() == [3, 4]


def test_copies_are_compared_once(cohort, monkeypatch):
    import glint.prepare.index.suspects as suspects

    raw, out = cohort
    shutil.copytree(raw / "3", raw / "copy")
    assert index(raw, out).quarantine.filter(pl.col("reason") == "duplicate").height == 2
    monkeypatch.setattr(suspects, "sha256_file", lambda path: pytest.fail("compared again"))
    put_study(raw, 9)
    assert index(raw, out).quarantine.filter(pl.col("reason") == "duplicate").height == 2


def test_a_series_that_a_second_study_claims_is_refused_in_both_shards(cohort):
    raw, out = cohort
    write_ct_series(raw / "9", study=9, num_slices=2, rows=2, columns=2, SeriesInstanceUID="1.2.3", PatientID="P9")
    write_ct_series(raw / "10", study=10, num_slices=2, rows=2, columns=2, SeriesInstanceUID="1.2.3", PatientID="P10")
    found = index(raw, out)
    assert found.series.filter(pl.col("reason") == "series_in_several_studies")["shard"].n_unique() == 2


def test_pieces_that_fit_into_memory_and_other_workers_give_the_same_tables(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    for study in range(1, 6):
        put_study(raw, study)
    index(raw, tmp_path / "whole")
    monkeypatch.setattr(scan, "FILES_AT_A_TIME", 3)
    monkeypatch.setattr(scan, "FILES_WORTH_A_POOL", 2)
    monkeypatch.setattr(header_store, "ROWS_AT_A_TIME", 1)
    index_images([raw], tmp_path / "pieces", IndexConfig(num_shards=SHARDS), PSEUDONYMS, workers=2)
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")
    assert shard_tables(tmp_path / "pieces").keys() == shard_tables(tmp_path / "whole").keys()


def test_a_file_whose_name_is_no_text_is_left_out_and_counted(cohort, capsys):
    raw, out = cohort
    name = os.fsdecode(os.fsencode(raw) + b"/caf\xe9")
    shutil.copy(next((raw / "1").iterdir()), name)
    assert index(raw, out).num_dicom == 14
    assert "1 folders or files can't be listed" in capsys.readouterr().err


def test_a_folder_named_twice_or_inside_another_counts_once(tmp_path):
    put_study(tmp_path / "raw", 1)
    folders = [tmp_path / "raw" / "1", tmp_path / "raw", tmp_path / "raw"]
    found = index_images(folders, tmp_path / "out", IndexConfig(num_shards=1), PSEUDONYMS, workers=1)
    assert found.num_dicom == 2 and found.quarantine.is_empty()


CHANGES = st.lists(st.tuples(st.sampled_from(["add", "remove", "redate", "copy"]), st.integers(1, 6)), max_size=5)


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES)
def test_after_any_changes_the_tables_say_what_a_first_index_would(changes):
    """The oracle is an index from nothing; shards alone may differ, since assignment only ever appends."""
    with tempfile.TemporaryDirectory() as place:
        raw, out = Path(place) / "raw", Path(place) / "index"
        put_study(raw, 1)
        put_study(raw, 20)
        index(raw, out)
        for step, (kind, study) in enumerate(changes):
            if kind == "add":
                put_study(raw, study)
            elif kind == "redate":
                put_study(raw, study, StudyDate=f"2020010{step}")
            elif kind == "copy" and (raw / str(study)).exists():
                shutil.copytree(raw / str(study), raw / f"copy{step}")
            elif kind == "remove":
                shutil.rmtree(raw / str(study), ignore_errors=True)
            known = dict(pl.read_parquet(out / "studies.parquet", columns=["study_id", "shard"]).iter_rows())
            index(raw, out)
            now = dict(pl.read_parquet(out / "studies.parquet", columns=["study_id", "shard"]).iter_rows())
            assert all(now[study] == shard for study, shard in known.items() if study in now)
        index(raw, Path(place) / "fresh")
        assert rows(out) == rows(Path(place) / "fresh")


REPORTS = IndexConfig(num_shards=SHARDS, identifier_columns=("report_date",))


def put_reports(path: Path, **changed: tuple[str, str] | None) -> None:
    """A report for each of seven studies; `A3=(text, date)` replaces one, None removes it."""
    lines = {f"A{study}": (f"Report {study}. No effusion.", "2021-03-14") for study in range(1, 8)} | changed
    said = [(key, *value) for key, value in lines.items() if value is not None]
    frame = pl.DataFrame(said, schema=["accession_number", "report", "report_date"], orient="row")
    frame.write_csv(path)


@pytest.mark.parametrize(
    "change",
    [None, ("Report 3. Effusion after all.", "2021-03-14"), ("Report 3. No effusion.", "2021-03-15")],
    ids=["removed", "corrected", "dated anew"],
)
def test_one_report_removed_corrected_or_dated_anew_touches_one_shard(cohort, tmp_path, change):
    _, out = cohort
    table, reports = tmp_path / "reports.csv", tmp_path / "reports"
    put_reports(table)
    index_reports(out / "studies.parquet", table, reports, REPORTS)
    before = shard_tables(reports)
    put_reports(table)
    index_reports(out / "studies.parquet", table, reports, REPORTS)
    assert shards_touched(before, reports) == set()
    put_reports(table, A3=change)
    index_reports(out / "studies.parquet", table, reports, REPORTS)
    home = pl.read_parquet(out / "studies.parquet").filter(pl.col("accession") == "A3")["shard"].item()
    assert shards_touched(before, reports) == {home}
