"""One validated configuration: the reference file is current, overlays merge, wrong keys are named."""

from pathlib import Path

import pytest
import yaml

from glint.core.config.reference import reference_yaml
from glint.core.config.schema import overlay, read_config, stage_slice
from glint.core.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "config"


def test_the_reference_file_is_what_the_fields_say():
    assert (FOLDER / "config.yaml").read_text() == reference_yaml(), "run python -m glint.core.config.reference"


@pytest.mark.parametrize("cohort", ["demo", "demo_full", "ct_rate", "mimic_cxr", "none"])
def test_every_shipped_cohort_is_valid(cohort):
    assert read_config(FOLDER, {"cohort": cohort}).cohort == cohort


@pytest.mark.parametrize("cohort", ["demo", "demo_full", "ct_rate", "mimic_cxr"])
def test_an_overlay_names_every_stage_so_that_dvc_can_follow_it(cohort):
    stages = [name for name in read_config(FOLDER).model_dump() if name not in ("cohort", "cluster")]
    named = yaml.safe_load((FOLDER / f"{cohort}.yaml").read_text())
    assert [name for name in named if name != "cluster"] == stages


def test_an_overlay_merges_mappings_and_replaces_everything_else():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert overlay(base, {"a": {"c": [9]}}) == {"a": {"b": 1, "c": [9]}, "d": 3}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def test_a_value_from_the_command_line_arrives_with_its_type():
    config = read_config(FOLDER, {"train": {"ct": {"steps": "7", "optimizer": {"text_learning_rate": "1e-6"}}}})
    assert config.train.ct.steps == 7
    assert stage_slice(config, "train", "ct")["optimizer"]["text_learning_rate"] == 1e-6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"convert": {"ct": {"min_slice": 3}}}, "convert.ct.min_slice"),
        ({"split": {"train": "most"}}, "split.train"),
        ({"cohort": "nowhere"}, "nowhere.yaml: no such configuration file"),
        ({"index": {"ct": {"raw_dirs": ["/pacs/export"]}}}, "the demo's key but index.ct.raw_dirs"),
        ({"resample": {"ct": {"grid": [57, 56, 72]}}}, "no multiple of teacher.ct.encoder.patch"),
        ({"teacher": {"ct": {"name": "dinov4"}}}, "no family 'dinov4'; known are vjepa_small, vjepa2_1"),
        ({"teacher": {"ct": {"name": "dinov3"}}}, "source 'pretrain': dinov3 comes from hub or path"),
        (
            {"teacher": {"ct": {"name": "vjepa2_1", "source": "path", "location": "w.pt"}}},
            "7 windows: vjepa2_1 takes 3 channels",
        ),
        (
            {"cohort": "ct_rate", "resample": {"ct": {"preset": "ct_clip"}}, "teacher": {"ct": {"name": "dinov2"}}},
            "no multiple of the patch (1, 14, 14)",
        ),
        (
            {"cohort": "ct_rate", "features": {"ct": {"layers": [24]}}},
            "features.ct.layers: vjepa2_1_vitl has blocks 0 to 23",
        ),
        (
            {"cohort": "ct_rate", "train": {"ct": {"loss": {"dense_blocks": [30]}}}},
            "train.ct.loss.dense_blocks: vjepa2_1_vitl",
        ),
    ],
)
def test_a_wrong_value_is_named_in_one_line(overrides, words):
    with pytest.raises(ConfigError) as refusal:
        read_config(FOLDER, overrides)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
