"""`glint status` speaks to people and to programs, writes nothing, and names the files that the workflow makes."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.cli.status import duration, reasons_text
from glint.core.config.schema import read_config
from glint.formats.workspace import stage_jobs

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = ["--config-dir", str(REPOSITORY / "config"), "--cohort", "demo"]


def put_convert_shard(root: Path) -> None:
    manifest = root / "results/ct/03_convert/shard-000/manifest.parquet"
    manifest.parent.mkdir(parents=True)
    frame = pl.DataFrame({"study_id": ["s1", "s2"], "status": ["ok", "quarantined"], "reason": [None, "truncated"]})
    frame.write_parquet(manifest)
    benchmark = root / "logs/ct/03_convert/shard-000.benchmark.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\n3600.0\t1:00:00\n")


def test_json_carries_counts_reasons_and_hours(tmp_path, capsys):
    put_convert_shard(tmp_path)
    assert main(["status", "--directory", str(tmp_path), "--cores", "3", "--json", *CONFIG]) == 0
    said = json.loads(capsys.readouterr().out)
    convert = next(stage for stage in said["stages"] if stage["stage"] == "03_convert")
    assert (convert["jobs_done"], convert["jobs_expected"], convert["studies_ok"]) == (1, 4, 1)
    assert convert["reasons"] == {"truncated": 1}
    assert convert["hours_left"] == pytest.approx(1.0) == said["hours_left"]
    assert said["every_stage_measured"] is False


def test_the_table_fits_a_terminal_and_says_what_was_not_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    put_convert_shard(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["status", "--directory", str(tmp_path), "--cores", "3", *CONFIG]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"03_convert +1/4 +1 +3600\.0 +1\.0 +1 truncated", shown)
    assert re.search(r"04_resample +0/4 +- +- +-", shown)
    assert "not measured yet" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_folder_of_configuration_is_told_in_one_line(tmp_path, capsys):
    assert main(["status", "--config-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_measurement_it_looks_for_is_one_that_a_rule_makes():
    config = read_config(REPOSITORY / "config", {"cohort": "demo"})
    rules = "\n".join(path.read_text() for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"))
    named = set(re.findall(r'"(logs/\S+?\.benchmark\.tsv)"', rules))
    # What is only made when asked for by name is no part of a stage's progress.
    named = {name for name in named if not re.search(r"/(run-|ablation|downstream)", name)}
    patterns = [re.escape(name).replace(r"\{modality\}", "ct") for name in named]
    patterns = [pattern.replace(r"\{shard\}", r"shard-\d{3}").replace(r"\{arm\}", "[a-z_]+") for pattern in patterns]
    sought = [job.benchmark.as_posix() for _, _, jobs in stage_jobs(Path(), config, "ct") for job in jobs]
    assert all(any(re.fullmatch(pattern, path) for pattern in patterns) for path in sought)
    assert all(any(re.fullmatch(pattern, path) for path in sought) for pattern in patterns)


def test_numbers_are_short():
    assert [duration(value) for value in (None, 0.0, 0.01, 2.04)] == ["-", "0", "<0.1", "2.0"]
    assert reasons_text({"a": 5, "b": 4, "c": 3, "d": 2, "e": 1, "f": 1}) == "5 a, 4 b, 3 c, 2 d, 2 more"
