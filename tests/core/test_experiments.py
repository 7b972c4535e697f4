"""Experiments: their files, the runs that they name, what a run is trained with."""

import shutil
from pathlib import Path

import pytest

from glint.core.config.experiments import run_of
from glint.core.config.schema import ablation_runs, read_config, stage_slice, train_slice
from glint.core.errors import ConfigError
from glint.core.reconcile import recipe_of

FOLDER = Path(__file__).resolve().parents[2] / "config"


def test_every_experiment_opens_with_its_claim_and_changes_what_the_method_trains_with() -> None:
    config = read_config(FOLDER)
    method = train_slice(config, "ct", "glint")
    assert method == stage_slice(config, "train", "ct")
    for path in (FOLDER / "experiments").glob("*.yaml"):
        assert path.read_text().startswith("claim: "), path.name
        if path.stem != "glint":
            assert train_slice(config, "ct", path.stem) != method, path.name
            assert config.experiments[path.stem].metrics, path.name


def test_a_runs_name_is_its_experiment_and_seed() -> None:
    assert run_of("no_null-s12") == ("no_null", 12)
    assert run_of("glint") == ("glint", None)
    for wrong in ("no-null", "-s1", "glint-s", "Glint", ""):
        with pytest.raises(ValueError, match="names no run"):
            run_of(wrong)


def test_a_run_of_the_comparison_has_its_schedule_and_seed_and_its_experiments_values() -> None:
    shorter = {"evaluate": {"ct": {"ablation": {"seeds": [4, 5], "head_steps": 30, "encoder_learning_rate": 0.5}}}}
    config = read_config(FOLDER, shorter)
    run, plain = train_slice(config, "ct", "no_dense-s4"), train_slice(config, "ct", "no_dense")
    assert (run["seed"], run["head_steps"], run["optimizer"]["encoder_learning_rate"]) == (4, 30, 0.5)
    assert run["steps"] == plain["steps"]
    assert run["loss"]["dense"] == plain["loss"]["dense"] == 0.0
    assert plain["head_steps"] == config.train.ct.head_steps
    assert ablation_runs(config, "ct")[:2] == ("glint-s4", "glint-s5")
    assert len(ablation_runs(config, "ct")) == 2 * len(config.experiments)


def test_an_experiment_reruns_its_own_runs_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "config")
    before = read_config(tmp_path / "config")
    path = tmp_path / "config" / "experiments" / "no_null.yaml"
    path.write_text(path.read_text() + "    rho: 0.25\n")
    after = read_config(tmp_path / "config")
    for job, same in (("glint", True), ("no_gate-s1", True), ("no_null", False), ("no_null-s1", False)):
        assert (recipe_of(before, "train", "ct", job) == recipe_of(after, "train", "ct", job)) == same, job
    assert recipe_of(before, "train", "ct", "gone") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("claim: x\ntrain:\n  loss:\n    gramm: 1.0\n", "train.loss.gramm"),
        ("train: {}\n", "claim"),
        ("claim: x\nmetrics: [beauty]\n", "metrics"),
    ],
)
def test_a_wrong_experiment_stops_in_one_line_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    shutil.copytree(FOLDER, tmp_path / "config")
    (tmp_path / "config" / "experiments" / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match="odd") as stopped:
        read_config(tmp_path / "config")
    assert words in str(stopped.value)
