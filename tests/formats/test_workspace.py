"""How far a run has come is read from what lies on disk, and from nothing else."""

from pathlib import Path

import polars as pl
import pytest

from glint.core.config.schema import Config, read_config
from glint.formats.benchmark_table import read_seconds
from glint.formats.workspace import StageState, read_workspace, stage_jobs

CONFIG_DIR = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(CONFIG_DIR, {"cohort": "none", "index": {"ct": {"num_shards": 4}}})


def put_table(path: Path, rows: list[tuple[str, str, str | None]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = {"study_id": pl.String, "status": pl.String, "reason": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)


def put_seconds(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t1.0\n")


def find(states: list[StageState], stage: str, part: str = "") -> StageState:
    return next(state for state in states if (state.stage, state.part) == (stage, part))


def test_an_empty_workspace_has_everything_before_it_and_nothing_measured(tmp_path, config):
    states = read_workspace(tmp_path, config, "ct")
    assert [state.jobs_done for state in states] == [0] * len(states)
    assert find(states, "03_convert").jobs_expected == 4
    assert find(states, "09_train").jobs_expected == 2
    assert all(state.hours_left(8) is None and state.studies_ok is None for state in states)


def test_hours_left_are_missing_shards_times_their_measured_mean_over_the_cores(tmp_path, config):
    put_table(tmp_path / "results/ct/03_convert/shard-000/manifest.parquet", [("s1", "ok", None)])
    put_seconds(tmp_path / "logs/ct/03_convert/shard-000.benchmark.tsv", 7200)
    state = find(read_workspace(tmp_path, config, "ct"), "03_convert")
    assert (state.jobs_done, state.jobs_expected, state.mean_job_s) == (1, 4, 7200)
    assert state.hours_left(1) == pytest.approx(6)
    assert state.hours_left(2) == pytest.approx(3)
    assert state.hours_left(64) == pytest.approx(2)  # three jobs cannot be quicker than one of them


def test_a_study_counts_once_and_as_usable_when_one_of_its_series_is(tmp_path, config):
    folder = tmp_path / "results/ct/02_deidentify/images"
    rows = [("s1", "ok", None), ("s1", "quarantined", "localizer"), ("s2", "quarantined", "localizer")]
    put_table(folder / "shard-000/manifest.parquet", rows)
    put_table(folder / "shard-002/manifest.parquet", [("s3", "ok", None), ("s4", "quarantined", "truncated")])
    state = find(read_workspace(tmp_path, config, "ct"), "02_deidentify", "images")
    assert (state.studies_ok, state.studies_set_aside) == (2, 2)
    assert list(state.reasons.items()) == [("localizer", 2), ("truncated", 1)]


def test_tables_and_measurements_that_are_being_written_stop_nothing(tmp_path, config):
    put_table(tmp_path / "results/ct/04_resample/shard-000/manifest.parquet", [("s1", "ok", None)])
    (tmp_path / "results/ct/04_resample/shard-001").mkdir()
    (tmp_path / "results/ct/04_resample/shard-001/.manifest.parquet.tmp.1").write_bytes(b"PAR1 half")
    (tmp_path / "results/ct/04_resample/shard-002").mkdir()
    (tmp_path / "results/ct/04_resample/shard-002/manifest.parquet").write_bytes(b"")
    put_seconds(tmp_path / "logs/ct/04_resample/shard-000.benchmark.tsv", 30)
    (tmp_path / "logs/ct/04_resample/shard-001.benchmark.tsv").write_text("s\th:m:s\n")
    state = find(read_workspace(tmp_path, config, "ct"), "04_resample")
    assert (state.jobs_done, state.studies_ok, state.mean_job_s) == (2, 1, 30)


def test_a_finished_stage_has_no_hours_left_even_where_nothing_was_measured(tmp_path, config):
    put_table(tmp_path / "results/ct/06_split/manifest.parquet", [("s1", "ok", None)])
    assert find(read_workspace(tmp_path, config, "ct"), "06_split").hours_left(1) == 0


def test_the_demo_is_a_stage_only_where_its_folder_is_the_raw_folder(tmp_path, config):
    assert stage_jobs(tmp_path, config, "ct")[0][0] == "01_index"
    demo = read_config(CONFIG_DIR, {"cohort": "demo"})
    assert stage_jobs(tmp_path, demo, "ct")[0][0] == "00_demo"


@pytest.mark.parametrize("content", ["", "s\n", "h:m:s\n0:00:01\n", "s\nNA\n"])
def test_a_benchmark_without_seconds_is_no_measurement(tmp_path, content):
    (tmp_path / "x.tsv").write_text(content)
    assert read_seconds(tmp_path / "x.tsv") is None
    assert read_seconds(tmp_path / "absent.tsv") is None
