"""From files to a report: what a perfect, a blind and a supervised arm reach on a cohort whose answers are known."""

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import torch
from evaluation_cohort import fake_tokens, load_fake, write_cohort

from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import FingerprintError, InputError
from glint.evaluation.arms import check_made_from, load_arm
from glint.evaluation.cohort import read_cohort
from glint.evaluation.maps import upsample_logits
from glint.evaluation.report import render_report
from glint.evaluation.retrieval import Reports
from glint.evaluation.stage import ask_arms, evaluate_models, with_pictures, write_evaluation
from glint.evaluation.terminal import print_summary
from glint.evaluation.zero_shot import Prompts
from glint.formats.checkpoint import Calibration, Checkpoint, Preprocessing, write_checkpoint
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.metrics.segmentation import dice_score

CONFIG = EvaluateConfig(resamples=200, foreign_checkpoint=True)


def evaluate(inputs, config=CONFIG):
    return evaluate_models(inputs, config, load=load_fake, read_tokens=fake_tokens(inputs))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def evaluated(inputs):
    return evaluate(inputs)


@pytest.fixture(scope="module")
def written(inputs, evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    full = with_pictures(*evaluated, inputs.checkpoints)
    write_evaluation(full, out)
    return full, out


def macro(evaluation, arm, metric):
    return evaluation.summary.find(arm, metric).value


def test_a_model_that_sees_the_lesions_ranks_and_points_perfectly(evaluated):
    evaluation, studies = evaluated
    assert len(studies) == 16
    assert macro(evaluation, "glint", "auroc") == 1.0
    assert macro(evaluation, "glint", "pointing") == 1.0
    assert macro(evaluation, "glint", "dice_fixed") > 0.6
    assert macro(evaluation, "glint", "false_positive_images") == 0.0


def test_a_blind_model_is_at_chance_and_paints_nothing(evaluated):
    evaluation, _ = evaluated
    positive_share = evaluation.cases.positive_FB.mean()
    assert macro(evaluation, "global_pooling", "auroc") == 0.5
    assert macro(evaluation, "global_pooling", "dice_fixed") == 0.0
    assert macro(evaluation, "global_pooling", "dice_all") == pytest.approx(1 - positive_share, abs=0.05)
    assert macro(evaluation, "chance", "auroc") == 0.5


def test_pointing_of_a_constant_map_and_chance_are_the_lesions_share_of_the_scan(evaluated):
    evaluation, _ = evaluated
    share = 8**3 / (16 * 24 * 32)
    assert macro(evaluation, "chance", "pointing") == pytest.approx(share, rel=0.05)
    assert macro(evaluation, "global_pooling", "pointing") == pytest.approx(share, rel=0.05)
    assert macro(evaluation, "chance", "dice_fixed") == pytest.approx(2 * share / (1 + share), rel=0.05)


def test_the_probe_that_saw_masks_is_a_strong_yardstick_and_the_place_alone_a_weak_one(evaluated):
    evaluation, _ = evaluated
    assert macro(evaluation, "probe", "auroc") > 0.95
    assert macro(evaluation, "probe", "pointing") > 0.9
    assert macro(evaluation, "location_prior", "pointing") < 0.4


def test_thresholds_that_saw_more_are_never_worse(evaluated):
    evaluation, _ = evaluated
    for arm in evaluation.cases.arms:
        for finding in evaluation.findings:
            oracle = evaluation.summary.find(arm, "dice_oracle", finding).value
            assert oracle >= evaluation.summary.find(arm, "dice_calibrated", finding).value
    assert set(evaluation.summary.calibrated_logit) == set(evaluation.cases.arms)


def test_the_calibrated_threshold_is_the_best_one_on_validation_masks(inputs, evaluated):
    evaluation, _ = evaluated
    studies = read_cohort(
        resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=inputs.features
    ).studies["validation"]
    arm = load_fake(inputs.checkpoints[0])
    reports = Reports(sentences=(), holds_TB=np.zeros((0, len(studies)), bool))
    heard = ask_arms({"glint": arm}, studies, evaluation.prompts, CONFIG, findings=evaluation.findings, reports=reports)
    answers = heard["glint"].answers
    levels = evaluation.cases.arms["glint"].thresholds
    dice_FK = []
    for row in range(2):
        dice_BK = []
        for column, study in enumerate(studies):
            mask = (study.bits() >> row & 1).astype(bool)[:16]
            heat = upsample_logits(answers.logits_FBP[row : row + 1, column], arm.grid, arm.volume_zyx)[0, :16]
            if mask.any():
                dice_BK.append([dice_score(heat > levels.value(k), mask) for k in range(levels.num)])
        dice_FK.append(np.mean(dice_BK, axis=0))
    dice = np.mean(dice_FK, axis=0)
    chosen = round((evaluation.summary.calibrated_logit["glint"] - levels.lowest) / levels.step)
    assert dice[chosen] == pytest.approx(max(dice), abs=2e-3)


def test_estimates_lie_in_their_intervals_and_macro_is_the_mean_of_the_findings(evaluated):
    evaluation, _ = evaluated
    for one in evaluation.summary.estimates:
        assert not one.low > one.value + 1e-9, one
        assert not one.high < one.value - 1e-9, one
    spread = evaluation.summary.find("glint", "dice_fixed", "mass")
    assert spread.low < spread.value < spread.high
    values = [evaluation.summary.find("probe", "dice_fixed", finding).value for finding in evaluation.findings]
    assert macro(evaluation, "probe", "dice_fixed") == pytest.approx(np.mean(values))


def test_differences_are_paired_and_signed(evaluated):
    evaluation, _ = evaluated
    gaps = {(one.second, one.metric): one for one in evaluation.summary.differences}
    gap = gaps["global_pooling", "auroc"]
    assert (gap.value, gap.low, gap.high, gap.share_above) == (0.5, 0.5, 0.5, 1.0)


def test_an_offset_moves_the_fixed_threshold_only(inputs, evaluated):
    moved, _ = evaluate(inputs, CONFIG.model_copy(update={"mask_offset": 4.0}))
    assert macro(moved, "global_pooling", "false_positive_images") == 1.0
    assert macro(moved, "global_pooling", "dice_fixed") == pytest.approx(macro(moved, "chance", "dice_fixed"), rel=0.05)
    assert macro(moved, "glint", "dice_calibrated") == macro(evaluated[0], "glint", "dice_calibrated")


def test_masks_without_enough_evidence_are_withdrawn(inputs, evaluated):
    strict, _ = evaluate(inputs, CONFIG.model_copy(update={"empty_below_mass": 1e6}))
    assert macro(strict, "glint", "dice_fixed") == macro(evaluated[0], "glint", "dice_fixed")
    assert macro(strict, "glint", "dice_all_withdrawn") == pytest.approx(macro(strict, "chance", "dice_all_withdrawn"))


def test_on_the_validation_split_nothing_is_calibrated(inputs):
    evaluation, studies = evaluate(inputs, CONFIG.model_copy(update={"split": "validation"}))
    assert len(studies) == 8
    assert evaluation.summary.find("glint", "dice_calibrated") is None


def test_metrics_hold_every_number_as_plain_json(written):
    evaluation, out = written
    tree = json.loads((out / "metrics.json").read_text())
    assert tree["glint"]["auroc"]["macro"] == 1.0
    assert set(tree["glint"]["pointing"]) == {"macro", "macro_low", "macro_high", *evaluation.findings}
    assert tree["cohort"]["studies"] == 16
    assert tree["cohort"]["patients"] == 8
    assert tree["difference"]["glint_minus_global_pooling"]["auroc"] == 0.5


def test_the_table_has_a_row_per_finding_and_arm(written):
    evaluation, out = written
    rows = list(csv.DictReader((out / "tables" / "zero_shot.csv").open()))
    assert len(rows) == 3 * 5
    chosen = next(row for row in rows if (row["finding"], row["arm"]) == ("mass", "glint"))
    assert float(chosen["auroc"]) == 1.0
    assert int(chosen["positives"]) == evaluation.cases.positive_FB[0].sum()


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.images += tag == "img"
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_whole_file_that_asks_for_nothing_else(written):
    evaluation, out = written
    text = (out / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.images == 3 + len(evaluation.overlays)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"url\(|@import|<script|https?://", text)
    for shown in (
        "There is mass.",
        "There is no emphysema.",
        "chance",
        "probe",
        "How to read",
        "seed 0",
        "16 test studies",
    ):
        assert shown in text


def test_words_of_a_prompt_are_shown_as_words(evaluated):
    evaluation, _ = evaluated
    prompts = Prompts(positive_FT=(("<b>mass & co</b>",), ("e",)), negative_FT=(("n",), ("m",)))
    images = {"bars": b"", "roc": b"", "curves": None}
    text = render_report(dataclasses.replace(evaluation, prompts=prompts, images=images))
    assert "&lt;b&gt;mass &amp; co&lt;/b&gt;" in text
    assert "<b>mass" not in text


def test_every_picture_is_a_png_and_every_finding_has_its_overlay(written):
    _, out = written
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {"bars.png", "roc.png", "reliability.png", "overlay_mass.png", "overlay_emphysema.png"}
    assert all((out / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_same_inputs_give_the_same_bytes(inputs, written, tmp_path):
    _, out = written
    write_evaluation(with_pictures(*evaluate(inputs), inputs.checkpoints), tmp_path)
    for name in ("metrics.json", "tables/zero_shot.csv", "figures/bars.png", "figures/overlay_mass.png", "report.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_the_terminal_table_fits_and_ends_with_what_to_do_next(written, capsys):
    evaluation, out = written
    print_summary(evaluation, out)
    lines = capsys.readouterr().out.splitlines()
    last_row = next(line.split() for line in lines if line.split()[:1] == ["macro"])
    assert last_row[1:4] == ["1.0", "1.0", f"{macro(evaluation, 'glint', 'dice_fixed'):.2f}"[1:]]
    assert max(map(len, lines[:-2])) <= 80
    assert "report.html" in lines[-2]
    assert lines[-1].startswith("next: ")


def test_every_case_is_in_the_table_with_what_the_summary_was_made_of(written):
    evaluation, out = written
    table = pl.read_parquet(out / "tables" / "cases.parquet")
    assert len(table) == 4 * 2 * 16
    mine = table.filter((pl.col("arm") == "glint") & (pl.col("finding") == "mass"))
    positives = mine.filter("positive")["dice_fixed"]
    assert positives.mean() == pytest.approx(evaluation.summary.find("glint", "dice_fixed", "mass").value)
    assert mine.filter(~pl.col("positive"))["dice_fixed"].is_nan().all()


def test_a_model_that_sees_is_faithful_and_one_that_is_blind_is_not(evaluated):
    evaluation, _ = evaluated
    # A dark lesion at the edge of this cohort's noise is no body by its HU, so nothing of it is erased.
    assert evaluation.summary.find("glint", "erasure_faithful", "mass").value == 1.0
    assert macro(evaluation, "global_pooling", "erasure_excess") == 0.0
    assert macro(evaluation, "glint", "hit") == macro(evaluation, "glint", "instance_f1") == 1.0
    assert macro(evaluation, "glint", "auroc_negated") > 0.6  # its "no" is no more than the strongest other patch
    # Eight validation studies cannot promise one false alarm in ten: nothing is called.
    assert macro(evaluation, "glint", "conformal_sensitivity") == 0.0
    assert evaluation.trust["glint"].coverage.holds


def test_an_empty_split_is_told_in_one_line(inputs, tmp_path):
    split = read_manifest(inputs.split, "split")
    changed = split.with_columns(split=split["split"].replace("test", "train"))
    write_manifest(tmp_path / "manifest.parquet", manifest_frame(changed.to_dicts(), "split"), "split")
    with pytest.raises(InputError, match="test split has no study with masks"):
        evaluate(dataclasses.replace(inputs, split=tmp_path / "manifest.parquet"))


def checkpoint(fingerprint):
    preprocessing = Preprocessing(windows=((-1000.0, 1000.0),), volume=(8, 8, 8), patch=(8, 8, 8), grid=(1, 1, 1))
    return Checkpoint(
        tensors={"x": torch.zeros(1)},
        config={},
        fingerprint=fingerprint,
        preprocessing=preprocessing,
        calibration=Calibration(score_scale=1.0, score_bias=0.0, mask_offset=0.0),
    )


def test_a_checkpoint_of_another_split_is_refused_with_both_sides_named(inputs, tmp_path):
    made_from = {"split": "0" * 64, "resampled": inputs.digests()["resampled"]}
    write_checkpoint(tmp_path / "glint", checkpoint(fingerprint=made_from))
    with pytest.raises(FingerprintError, match="trained on split 000000000000, measured with"):
        check_made_from(tmp_path / "glint", inputs.digests())
    check_made_from(tmp_path / "glint", {"resampled": made_from["resampled"]})


def test_a_checkpoint_that_does_not_say_its_windows_is_refused(tmp_path):
    write_checkpoint(tmp_path / "glint", checkpoint(fingerprint={}))
    (tmp_path / "glint" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        load_arm(tmp_path / "glint")
