"""The folder a run writes into: where every stage's tables and measurements lie, and how far each has come.

Read only, and safe beside a running workflow: a table that is absent, unfinished or just being replaced counts as
not done. It tells what exists, not what is stale; that is the workflow engine's to say.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from glint.core.config.index import IndexConfig
from glint.core.config.schema import Config, modalities_of
from glint.formats.benchmark_table import read_seconds

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a stage: done when `output` exists; `table` has its rows, if any; `benchmark` its seconds."""

    output: Path
    table: Path | None
    benchmark: Path


@dataclass(frozen=True, kw_only=True)
class StageState:
    """How far a stage has come. `reasons` counts the rows set aside: series in 02 images and 03, else studies."""

    stage: str
    part: str
    jobs_done: int
    jobs_expected: int
    studies_ok: int | None
    studies_set_aside: int | None
    reasons: dict[str, int]
    mean_job_s: float | None

    def hours_left(self, cores: int) -> float | None:
        """Missing jobs × mean seconds of the measured ones / cores, and never less than one job; None: not measured."""
        missing = self.jobs_expected - self.jobs_done
        if missing <= 0:
            return 0.0
        if self.mean_job_s is None:
            return None
        return self.mean_job_s * max(missing / cores, 1) / SECONDS_PER_HOUR


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The names of one modality's folders."""

    root: Path
    modality: str
    shards: Sequence[str]

    def sharded(self, stage: str, kind: str = "") -> list[Job]:
        """A job per shard: `results/ct/03_convert/shard-000/manifest.parquet` and its measurement."""
        folder = self.root / "results" / self.modality / stage / kind
        logs = self.root / "logs" / self.modality / stage
        prefix = f"{kind}_" if kind else ""
        manifests = {shard: folder / shard / "manifest.parquet" for shard in self.shards}
        return [
            Job(output=manifest, table=manifest, benchmark=logs / f"{prefix}{shard}.benchmark.tsv")
            for shard, manifest in manifests.items()
        ]

    def single(self, stage: str, output: str, name: str, *, table: str | None = None, top: str = "results") -> Job:
        """One job that writes `<top>/<modality>/<stage>/<output>`."""
        folder = self.root / top / self.modality / stage
        benchmark = self.root / "logs" / self.modality / stage / f"{name}.benchmark.tsv"
        return Job(output=folder / output, table=folder / table if table else None, benchmark=benchmark)


def stage_jobs(root: Path, config: Config, modality: str) -> list[tuple[str, str, list[Job]]]:
    """(stage, part, jobs) in the order of the pipeline, as the rules of the workflow name them."""
    index: IndexConfig = getattr(config.index, modality)
    arms: tuple[str, ...] = getattr(config.evaluate, modality).arms if modality in modalities_of("evaluate") else ()
    of = _Layout(root=root, modality=modality, shards=[f"shard-{number:03d}" for number in range(index.num_shards)])
    demo = [of.single("00_demo", "summary.json", "demo", top="restricted")]
    images = of.single("01_index", "images/studies.parquet", "images", table="images/studies.parquet", top="restricted")
    reports = of.single(
        "01_index",
        f"reports/{of.shards[-1]}/reports.parquet",
        "reports",
        table="reports/reports.parquet",
        top="restricted",
    )
    made = any(f"restricted/{modality}/00_demo" in folder for folder in index.raw_dirs)
    stages = [
        *([("00_demo", "", demo)] if made else []),
        ("01_index", "images", [images]),
        ("01_index", "reports", [reports]),
        ("02_deidentify", "images", of.sharded("02_deidentify", "images")),
        ("02_deidentify", "reports", of.sharded("02_deidentify", "reports")),
        ("02_deidentify", "audit", [of.single("02_deidentify", "audit/score.json", "audit")]),
        ("03_convert", "", of.sharded("03_convert")),
        ("04_resample", "", of.sharded("04_resample")),
        ("05_sections", "", of.sharded("05_sections")),
        ("06_split", "", [of.single("06_split", "manifest.parquet", "split", table="manifest.parquet")]),
        ("07_teacher", "", [of.single("07_teacher", "teacher.json", "teacher")]),
        ("08_features", "", of.sharded("08_features")),
        ("09_train", "", [of.single("09_train", f"{arm}/fingerprint.json", arm) for arm in arms]),
        (
            "10_evaluate",
            "truth",
            [of.single("10_evaluate", "truth/manifest.parquet", "truth", table="truth/manifest.parquet")],
        ),
        ("10_evaluate", "models", [of.single("10_evaluate", "metrics.json", "models")]),
        ("10_evaluate", "pages", [of.single("10_evaluate", "pages/evaluation.html", "pages")]),
    ]
    return [stage for stage in stages if modality in modalities_of(stage[0][3:])]


def _outcomes(table: Path) -> pl.DataFrame | None:
    """The three columns that tell what became of each row; None for a table that can't be read now."""
    try:
        return pl.read_parquet(table, columns=["study_id", "status", "reason"])
    except (OSError, pl.exceptions.PolarsError):
        return None


def stage_state(stage: str, part: str, jobs: Sequence[Job]) -> StageState:
    """Read how far the jobs of one stage have come."""
    done = [job for job in jobs if job.output.is_file()]
    frames = [frame for job in done if job.table is not None and (frame := _outcomes(job.table)) is not None]
    seconds = [value for job in jobs if (value := read_seconds(job.benchmark)) is not None]
    ok = aside = None
    reasons: Counter[str] = Counter()
    if frames:
        rows = pl.concat(frames)
        usable = pl.col("status") == "ok"
        ok = rows.filter(usable)["study_id"].n_unique()
        aside = rows["study_id"].n_unique() - ok
        counts = rows.filter(~usable).group_by("reason").len().sort("len", "reason", descending=[True, False])
        reasons.update({str(reason): count for reason, count in counts.iter_rows()})
    return StageState(
        stage=stage,
        part=part,
        jobs_done=len(done),
        jobs_expected=len(jobs),
        studies_ok=ok,
        studies_set_aside=aside,
        reasons=dict(reasons),
        mean_job_s=sum(seconds) / len(seconds) if seconds else None,
    )


def read_workspace(root: Path, config: Config, modality: str) -> list[StageState]:
    """Every stage of one modality, in the order of the pipeline."""
    return [stage_state(stage, part, jobs) for stage, part, jobs in stage_jobs(root, config, modality)]
