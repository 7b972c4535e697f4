"""Two evaluations are compared on what they share, with paired cases."""

import json

import numpy as np
import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.core.errors import InputError
from glint.evaluation.compare import compare_cases, read_cases
from glint.metrics.classification import auroc_score

NAMES = ("A", "B")


def table(seed, studies=60, *, skill=1.0, arm="glint"):
    rng = np.random.default_rng(7)
    rows = []
    for finding in ("mass", "effusion"):
        positive = rng.random(studies) < 0.4
        noise = np.random.default_rng(seed).normal(size=studies)
        for k in range(studies):
            dice = float(np.clip(0.3 * skill + 0.05 * noise[k], 0, 1)) if positive[k] else np.nan
            rows.append(
                {
                    "arm": arm,
                    "finding": finding,
                    "study_id": f"s{k:03}",
                    "patient_id": f"p{k // 2}",
                    "positive": bool(positive[k]),
                    "score": float(skill * positive[k] + noise[k]),
                    "dice_fixed": dice,
                }
            )
    return pl.DataFrame(rows).sort("finding", "study_id")


def found(comparison, metric, finding="macro"):
    return next(one for one in comparison.contrasts if (one.metric, one.finding) == (metric, finding))


def test_a_better_model_is_better_with_an_interval_and_a_p_that_say_so():
    comparison = compare_cases(table(1, skill=2.0), table(2, skill=0.5), names=NAMES, resamples=300)
    auroc, dice = found(comparison, "auroc"), found(comparison, "dice_fixed")
    assert auroc.low > 0 and dice.low > 0 and dice.p < 0.01
    assert dice.difference == pytest.approx(0.45, abs=0.05)
    assert np.isnan(auroc.p)  # a rank over all studies has no value per case


def test_values_equal_those_of_each_run_alone():
    first, second = table(1, skill=2.0), table(2, skill=0.5)
    one = found(compare_cases(first, second, names=NAMES, resamples=20), "auroc", "mass")
    mass = second.filter(pl.col("finding") == "mass")
    assert one.second == pytest.approx(auroc_score(mass["score"].to_numpy(), mass["positive"].to_numpy()))


def test_equal_runs_do_not_differ():
    one = found(compare_cases(table(1), table(1), names=NAMES, resamples=50), "dice_fixed")
    assert (one.difference, one.low, one.high, one.p) == (0.0, 0.0, 0.0, 1.0)


def test_only_shared_studies_count_and_the_others_are_told():
    comparison = compare_cases(table(1, 60), table(2).filter(pl.col("study_id") < "s040"), names=NAMES, resamples=20)
    assert (comparison.studies, comparison.only_first, comparison.only_second) == (40, 20, 0)


def test_two_truths_or_nothing_shared_are_refused():
    turned = pl.when(pl.int_range(pl.len()) == 3).then(~pl.col("positive")).otherwise(pl.col("positive"))
    with pytest.raises(InputError, match="disagree in 1 case"):
        compare_cases(table(1), table(2).with_columns(positive=turned), names=NAMES)
    with pytest.raises(InputError, match="share no finding"):
        compare_cases(table(1), table(2).with_columns(study_id=pl.lit("x") + pl.col("study_id")), names=NAMES)


def test_the_command_writes_a_page_and_numbers(tmp_path, capsys):
    for name, skill in (("one", 2.0), ("two", 0.5)):
        (tmp_path / name / "tables").mkdir(parents=True)
        table(len(name), skill=skill).write_parquet(tmp_path / name / "tables" / "cases.parquet")
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out), "--resamples", "50"]) == 0
    tree = json.loads((out / "compare.json").read_text())
    assert tree["metrics"]["dice_fixed"]["macro"]["difference"] > 0.3
    page = (out / "compare.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page
    assert "difference +" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "one")]) == 1
    assert "twice" in capsys.readouterr().err
    with pytest.raises(InputError, match="no arm 'probe'; it holds glint"):
        read_cases(tmp_path / "one", "probe")
