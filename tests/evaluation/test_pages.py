"""The pages for `snakemake --report`: what a run's tables say, in one folder."""

import json

import numpy as np
import pytest
from evaluation_cohort import write_cohort
from PIL import Image

from glint.cli.__main__ import main
from glint.core.errors import InputError
from glint.evaluation.pages import cohort_tables, gather_pages


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = write_cohort(tmp_path_factory.mktemp("cohort"))
    folder = inputs.truth.parents[1]
    (folder / "tables").mkdir()
    (folder / "report.html").write_text("<p>the evaluation</p>")
    (folder / "tables" / "zero_shot.csv").write_text("finding,arm\n")
    glint = inputs.checkpoints[0]
    glint.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(glint / "curves.png")
    (glint / "fingerprint.json").write_text(json.dumps({"inputs": {"split": "<abc>"}, "seed": 3}))
    return inputs


def test_the_cohort_page_counts_studies_patients_and_findings(inputs):
    splits, findings, split, grid = cohort_tables(resampled=inputs.resampled, split=inputs.split, truth=inputs.truth)
    assert splits.rows == (("train", "20", "10"), ("validation", "8", "4"), ("test", "16", "8"))
    masses = [sum(number % 3 == 0 for number in numbers) for numbers in (range(20), range(20, 28), range(28, 44))]
    assert findings.rows[0] == ("mass", *map(str, masses))
    assert split.rows == grid.rows == (("ok", "", "44"),)


def test_the_command_fills_a_folder_whose_pages_stand_alone(inputs, tmp_path):
    out = tmp_path / "pages"
    arguments = ["evaluate", "pages", "--evaluation", inputs.truth.parents[1], "--checkpoints", *inputs.checkpoints]
    arguments += ["--resampled", *inputs.resampled, "--split", inputs.split, "--truth", inputs.truth, "--out", out]
    assert main([str(one) for one in arguments]) == 0
    assert (out / "evaluation.html").read_text() == "<p>the evaluation</p>"
    assert (out / "zero_shot.csv").read_text() == "finding,arm\n"
    training, cohort = ((out / f"{name}.html").read_text() for name in ("training", "cohort"))
    assert "data:image/png;base64," in training and "inputs / split" in training and "&lt;abc&gt;" in training
    assert "<td>mass</td>" in cohort and "http" not in training + cohort


def test_an_absent_page_is_named_with_the_way_out(inputs, tmp_path):
    with pytest.raises(InputError, match=r"report\.html: no such page; remove metrics\.json"):
        gather_pages(
            evaluation=tmp_path,
            checkpoints=inputs.checkpoints,
            resampled=inputs.resampled,
            split=inputs.split,
            truth=inputs.truth,
            out=tmp_path / "pages",
        )
    assert not (tmp_path / "pages").exists()
