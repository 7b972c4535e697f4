"""Stages 05 and 07 to 10 by their commands on a small cohort of films, whose masses are bright squares."""

import json
from pathlib import Path

import numpy as np
import pytest

from glint.cli.__main__ import main
from glint.formats.checkpoint import read_checkpoint
from glint.formats.image import read_film, write_film
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest

GRID, PATCH = 64, 8
SPLITS = ["train"] * 20 + ["validation"] * 4 + ["test"] * 8
COMMON = {"status": "ok", "input_digest": "i", "params_digest": "p"}
TEACHER = {
    "windows": [[0, 65535]],
    "encoder": {"patch": [1, PATCH, PATCH], "width": 24, "depth": 2, "heads": 2},
    "pretrain": {"steps": 3, "warmup_steps": 1, "levels": [0, 1], "batch_size": 4, "appearance_width": 8},
    "threads": 1,
}
TRAIN = {
    "head_steps": 30,
    "steps": 2,
    "batch_size": 8,
    "threads": 1,
    "views": ["PA"],
    "model": {"value_width": 16, "gate_width": 8},
    "loss": {"dense_blocks": [0, 1]},
    "augment": {"shift_voxels": 2},
}
EVALUATE = {
    "truth_ids": "study_id",
    "resamples": 20,
    "body_above": 4000,
    "overlay_window": [0, 65535],
    "overlay_cases": 1,
}


def write_films(root: Path) -> list[tuple[int, int] | None]:
    """Stages 02 and 04 and truth; where each film's mass lies, in pixels of the model's grid. The last is a lateral film."""
    rng = np.random.default_rng(3)
    films, reports, places, splits = [], [], [], []
    (root / "truth").mkdir()
    (root / "truth" / "findings.json").write_text('{"0": "mass"}')
    for number, split in enumerate([*SPLITS, "train"]):
        study, film = f"s{number:02d}", rng.integers(9000, 22000, (GRID, GRID)).astype(np.uint16)
        film[:, :PATCH] = 0  # a padded margin
        # The original film is twice as fine and starts 6 pixels further out.
        bits = np.zeros((2 * GRID + 12, 2 * GRID + 12), np.uint16)
        place = None
        if number % 2:
            y, x = (int(v) for v in rng.integers(2, GRID // PATCH - 1, 2) * PATCH)
            film[y : y + PATCH, x : x + PATCH] = 60000
            bits[2 * y + 6 : 2 * (y + PATCH) + 6, 2 * x + 6 : 2 * (x + PATCH) + 6] = 1
            place = (y, x)
        places.append(place)
        write_film(root / "04" / "films" / f"{study}.png", film)
        write_film(root / "truth" / f"i{number:02d}.png", bits)
        films.append(
            {
                **COMMON,
                "study_id": study,
                "patient_id": f"p{number}",
                "instance_id": f"i{number:02d}",
                "path": f"films/{study}.png",
                "view": "lateral" if number == len(SPLITS) else "PA",
                "to_original": [2.0, 0.0, 6.5, 0.0, 2.0, 6.5, 0.0, 0.0, 1.0],
                "valid_box": [0, GRID, PATCH, GRID],
            }
        )
        text = "FINDINGS: There is a lung mass." if place else "FINDINGS: No lung mass. The trachea is midline."
        reports.append({**COMMON, "study_id": study, "text": text, "num_replacements": 0, "replacements": []})
        splits.append({**COMMON, "study_id": study, "patient_id": f"p{number}", "split": split})
    for schema, rows, folder in (
        ("resample_films", films, "04"),
        ("split", splits, "06"),
        ("deidentify_reports", reports, "02"),
    ):
        (root / folder).mkdir(exist_ok=True)
        write_manifest(root / folder / "manifest.parquet", manifest_frame(rows, schema), schema)
    return places


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    places = write_films(root)
    (root / "places.json").write_text(json.dumps(places))
    at = {
        folder: str(root / folder / "manifest.parquet")
        for folder in ("02", "04", "05", "06", "08/shard-000", "truth_on_grid")
    }
    tables = ["--resampled", at["04"], "--split", at["06"]]
    assert main(["sections", "--manifest", at["02"], "--out", at["05"]]) == 0
    assert (
        main(
            [
                "teacher",
                *tables,
                "--out",
                str(root / "07"),
                "--state",
                str(root / "state"),
                "--config",
                json.dumps(TEACHER),
            ]
        )
        == 0
    )
    features = json.dumps({"layers": [0, 1], "precision": "float32"})
    assert (
        main(
            [
                "features",
                "encode",
                "--manifest",
                at["04"],
                "--teacher",
                str(root / "07"),
                "--out",
                at["08/shard-000"],
                "--config",
                features,
            ]
        )
        == 0
    )
    preparation = json.dumps({"modality": "cxr", "convert": {}, "resample": {"grid_yx": [GRID, GRID]}})
    for arm, pooling in (("glint", "gate"), ("global_pooling", "mean")):
        config = json.dumps({**TRAIN, "model": {**TRAIN["model"], "pooling": pooling}})
        assert main([
            "train", *tables, "--sections", at["05"], "--features", at["08/shard-000"], "--teacher", str(root / "07"),
            "--state", str(root / "state"), "--out", str(root / "09" / arm), "--preparation", preparation, "--config", config,
        ]) == 0  # fmt: skip
    truth = ["--truth", str(root / "truth"), "--out", at["truth_on_grid"], "--config", json.dumps(EVALUATE)]
    assert main(["evaluate", "truth", *tables, *truth]) == 0
    assert main([
        "evaluate", "models", *tables, "--checkpoints", str(root / "09" / "glint"), str(root / "09" / "global_pooling"),
        "--sections", at["05"], "--features", at["08/shard-000"], "--truth", at["truth_on_grid"],
        "--out", str(root / "10"), "--config", json.dumps(EVALUATE),
    ]) == 0  # fmt: skip
    return root


def test_truth_drawn_on_the_original_film_lies_on_the_models_grid(road: Path):
    places = json.loads((road / "places.json").read_text())
    rows = read_manifest(road / "truth_on_grid" / "manifest.parquet", "evaluate_truth")
    for row in rows.iter_rows(named=True):
        place = places[int(row["study_id"][1:])]
        bits = read_film(road / "truth_on_grid" / row["path"])
        expected = np.zeros((GRID, GRID), bool)
        if place:
            expected[place[0] : place[0] + PATCH, place[1] : place[1] + PATCH] = True
        np.testing.assert_array_equal(bits == 1, expected)


def test_views_that_are_not_trained_on_stay_out_and_the_checkpoint_says_it_is_for_films(road: Path):
    checkpoint = read_checkpoint(road / "09" / "glint")
    assert checkpoint.preprocessing.modality == "cxr"
    assert tuple(checkpoint.preprocessing.volume) == (1, GRID, GRID)
    card = (road / "09" / "glint" / "README.md").read_text()
    assert "chest X-ray" in card and "21" not in card.split("studies")[0]


def test_films_are_measured_against_every_yardstick_and_pictured_once_per_case(road: Path):
    metrics = json.loads((road / "10" / "metrics.json").read_text())
    text = json.dumps(metrics)
    assert all(arm in text for arm in ("glint", "global_pooling", "probe", "location_prior", "chance"))
    assert "NaN" not in text
    assert "data:image" in (road / "10" / "report.html").read_text()
    assert (road / "10" / "figures" / "overlay_mass.png").stat().st_size > 2000
