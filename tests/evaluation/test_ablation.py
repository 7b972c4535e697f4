"""The comparison of experiments: values, gains, intervals over seeds and patients, verdicts."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from glint.core.config.evaluate import EvaluateConfig
from glint.core.config.experiments import Experiment
from glint.core.errors import InputError
from glint.evaluation.ablation import compare_runs, markdown, write_ablation

STUDIES, FINDINGS = 40, ("nodule", "mass")
CONFIG = EvaluateConfig(resamples=200)
EXPERIMENTS = {
    "glint": Experiment(claim="The method.", kind="method"),
    "blind": Experiment(claim="Sight matters.", kind="baseline", metrics=("pointing",)),
    "same": Experiment(claim="Nothing matters.", metrics=("pointing", "dice_fixed")),
    "better": Experiment(claim="The method is best.", metrics=("pointing",)),
}


def cases(folder: Path, run: str, *, pointing: float, seed: int, score: float = 1.0) -> Path:
    """One run's table; its pointing has the given mean among positives, its score separates by `score`."""
    rng, rows = np.random.default_rng(seed), []
    for finding in FINDINGS:
        for study in range(STUDIES):
            positive = study % 2 == 0
            rows.append(
                {
                    "finding": finding,
                    "study_id": f"s{study:02d}",
                    "patient_id": f"p{study // 2 * 2 + study % 2:02d}",
                    "positive": positive,
                    "score": score * positive + rng.normal(),
                    "pointing": float(rng.random() < pointing) if positive else math.nan,
                    "dice_fixed": 0.5 if positive else math.nan,
                    "nonempty": study % 4 == 1,
                    "kept": False,
                    "teacher_cosine": 0.9,
                }
            )
    path = folder / run / "cases.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    levels = {"glint": 0.6, "blind": 0.0, "same": 0.6, "better": 1.0}
    return [
        cases(tmp_path, f"{name}-s{seed}", pointing=level, seed=10 * seed + (name == "same"))
        for name, level in levels.items()
        for seed in (0, 1)
    ]


def test_values_are_means_over_seeds_of_macro_means(paths: list[Path]) -> None:
    found = compare_runs(paths, EXPERIMENTS, CONFIG)
    tables = [pl.read_parquet(path) for path in paths[:2]]
    by_hand = [
        table.group_by("finding").agg(pl.col("pointing").fill_nan(None).mean())["pointing"].mean() for table in tables
    ]
    assert found.values["glint"]["pointing"].value == pytest.approx(np.mean(by_hand))
    assert found.by_seed["glint"]["pointing"] == pytest.approx(tuple(by_hand))
    # Of the negatives, studies 1, 3, 5, …, every second one has a mask.
    assert found.values["glint"]["false_positive_images"].value == pytest.approx(0.5)
    assert (found.studies, found.patients) == (STUDIES, STUDIES)


def test_claims_are_shown_true_false_or_neither_by_the_intervals_of_paired_gains(paths: list[Path]) -> None:
    found = compare_runs(paths, EXPERIMENTS, CONFIG)
    verdicts = {(one.experiment, one.claim): one.verdict for one in found.verdicts}
    assert verdicts["blind", "Sight matters."] == "true"
    assert verdicts["same", "Nothing matters."] == "not shown"
    assert verdicts["better", "The method is best."] == "false"
    paper = next(one for one in found.verdicts if one.claim.startswith("The largest gains over blind"))
    assert paper.verdict == "not shown"  # far ahead in pointing, but Dice gained nothing over AUROC
    gain = found.gains["blind"]["pointing"]
    assert gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(found.values["glint"]["pointing"].value)


def test_seeds_that_disagree_widen_the_interval(tmp_path: Path) -> None:
    def width(levels: tuple[float, float], name: str) -> float:
        runs = [
            cases(tmp_path / name, f"glint-s{seed}", pointing=level, seed=seed) for seed, level in enumerate(levels)
        ]
        one = compare_runs(runs, EXPERIMENTS, CONFIG).values["glint"]["pointing"]
        return one.high - one.low

    assert width((0.1, 0.9), "apart") > 1.5 * width((0.5, 0.5), "together")


def test_runs_that_measured_other_studies_or_lack_a_seed_are_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seeds"):
        compare_runs(paths[:3], EXPERIMENTS, CONFIG)
    pl.read_parquet(paths[3]).head(STUDIES).write_parquet(paths[3])
    with pytest.raises(InputError, match="other studies"):
        compare_runs(paths[:4], EXPERIMENTS, CONFIG)


def test_table_figure_and_numbers_are_written(paths: list[Path], tmp_path: Path) -> None:
    found = compare_runs(paths, EXPERIMENTS, CONFIG)
    write_ablation(found, tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert tree["gains"]["blind"]["pointing"]["low"] > 0
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    text = markdown(found)
    assert text.count("| GLINT |") == 1
    assert "| Sight matters. (`blind`) | **true** |" in text
