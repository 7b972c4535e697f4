"""A cohort that was labelled but not drawn: what ranks is measured, what looks at masks is not a number."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from evaluation_cohort import KEY, fake_tokens, load_fake, uid, write_cohort

from glint.core.config.evaluate import EvaluateConfig, PromptConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.evaluation.annotations.truth_table import TruthTableOptions, make_truth_table
from glint.evaluation.cohort import read_cohort
from glint.evaluation.stage import evaluate_models, with_pictures, write_evaluation
from glint.evaluation.truth import make_truth, read_truth
from glint.evaluation.zero_shot import make_prompts
from glint.formats.image import write_film
from glint.formats.manifest import manifest_frame, write_manifest

STUDIES = 44
HAS = {
    number: [name for bit, name in enumerate(("mass", "emphysema")) if (number + bit) % 3 == 0]
    for number in range(STUDIES)
}


def label_file(folder, numbers):
    lines = [f"{uid(k)},{int('mass' in HAS[k])},{int('emphysema' in HAS[k])}\n" for k in numbers]
    (folder / "labels.csv").write_text("id,mass,emphysema\n" + "".join(lines))


def rebuild(made, folder, out, pseudonyms=Pseudonyms(KEY)):  # noqa: B008 (frozen)
    truth = out / "manifest.parquet"
    make_truth(truth_dir=folder, pseudonyms=pseudonyms, resampled=made.resampled, split=made.split, out_path=truth)
    return dataclasses.replace(made, truth=truth)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The cohort with all its masks, in `restricted/truth`."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), studies=STUDIES)


@pytest.fixture
def folder(tmp_path):
    """A truth folder without a mask."""
    made = tmp_path / "labels"
    made.mkdir()
    (made / "findings.json").write_text('{"0": "mass", "1": "emphysema"}')
    label_file(made, range(STUDIES))
    return made


def test_scores_are_ranked_and_maps_are_left_alone(drawn, folder, tmp_path):
    inputs = rebuild(drawn, folder, tmp_path / "truth")
    config = EvaluateConfig(resamples=20, foreign_checkpoint=True, erased_cases=2, retrieval=False)
    evaluation, studies = evaluate_models(inputs, config, load=load_fake, read_tokens=fake_tokens(inputs))
    assert len(studies) == 16 and list(evaluation.cases.arms) == ["glint", "global_pooling"]
    found = {
        one.metric: one.value for one in evaluation.summary.estimates if (one.arm, one.finding) == ("glint", "macro")
    }
    assert found["auroc"] == 1.0 and found["brier"] < 0.25
    for metric in ("pointing", "dice_fixed", "dice_oracle", "dice_all", "hit", "box_iou", "side_moves"):
        assert np.isnan(found[metric]), metric
    assert not np.isnan(found["erasure_drop"]) and "dice_calibrated" not in found
    write_evaluation(with_pictures(evaluation, studies, inputs.checkpoints), tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()


def test_labels_stand_beside_the_masks_that_others_have(drawn, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(drawn.split.parents[1] / "restricted" / "truth", folder)
    (folder / f"{uid(3)}.nii.gz").unlink()
    label_file(folder, [3])
    again = rebuild(drawn, folder, tmp_path / "truth")
    rows = {row["study_id"]: row for row in read_truth(again.truth)[0].to_dicts()}
    labelled = rows[Pseudonyms(KEY).study_id(uid(3))]
    assert labelled["path"] is None and labelled["findings"] == ["mass"]
    assert sum(row["path"] is not None for row in rows.values()) == STUDIES - 1
    cohort = read_cohort(resampled=again.resampled, split=again.split, truth=again.truth, features=again.features)
    one = next(study for study in cohort.studies["train"] if study.truth_path is None)
    assert not one.bits().any() and one.bits().shape == one.volume()[0].shape


def test_a_wrong_label_table_is_told_without_an_id(drawn, folder, tmp_path):
    wrong = {f"id,mass\n{uid(0)},1\n": "no column 'emphysema'", f"id,mass,emphysema\n{uid(0)},1,x\n": "holds 'x'"}
    for text, told in wrong.items():
        (folder / "labels.csv").write_text(text)
        with pytest.raises(InputError, match=told) as error:
            rebuild(drawn, folder, tmp_path / "truth")
        assert uid(0) not in str(error.value)


def test_published_labels_reach_the_studies_that_stage_01_saw(drawn, tmp_path):
    """Accession numbers lead from CT-RATE's scans to pseudonyms; no published id is written."""
    names, index = Pseudonyms(KEY), tmp_path / "index"
    index.mkdir()
    studies = [
        {
            "study_id": names.study_id(uid(k)),
            "patient_id": f"p{k}",
            "study_uid": uid(k),
            "accession": f"valid_{k}_a",
            "status": "ok",
        }
        for k in range(3)
    ]
    instances = [
        {
            "study_id": one["study_id"],
            "instance_id": f"i{k}",
            "sop_instance_uid": f"9.{k}",
            "file": f"ct/{k}/slice.dcm",
            "status": "ok",
        }
        for k, one in enumerate(studies)
    ]
    for name, rows in (("studies", studies), ("instances", instances)):
        write_manifest(index / f"{name}.parquet", manifest_frame(rows, f"index_{name}"), f"index_{name}")
    source = tmp_path / "ct_rate"
    source.mkdir()
    table = "VolumeName,mass,emphysema\n" + "".join(
        f"valid_{k}_a_{n}.nii.gz,{int('mass' in HAS[k])},{int('emphysema' in HAS[k])}\n"
        for k in range(5)
        for n in (1, 2)
    )
    (source / "valid_predicted_labels.csv").write_text(table)
    out = tmp_path / "truth"
    summary = make_truth_table("ct_rate", source, out, TruthTableOptions(index=(index,)))
    assert (summary["published"]["studies"], summary["studies"], summary["labelled"]) == (5, 3, 3)
    assert not any("valid_" in path.read_bytes().decode("latin-1") for path in out.iterdir())
    assert set((out / "splits.csv").read_text().splitlines()[1:]) == {f"{one['study_id']},test" for one in studies}
    rows, findings = read_truth(rebuild(drawn, out, tmp_path / "made", None).truth)
    present = dict(rows.select("study_id", "findings").iter_rows())
    assert findings == ("emphysema", "mass")
    assert present == {names.study_id(uid(k)): sorted(HAS[k]) for k in range(3)}
    write_manifest(index / "studies.parquet", manifest_frame([], "index_studies"), "index_studies")
    with pytest.raises(InputError, match="none of 10 images is known to stage 01"):
        make_truth_table("ct_rate", source, out, TruthTableOptions(index=(index,)))


def test_a_benchmark_sets_the_prompts_and_refuses_others_beside_it():
    config = EvaluateConfig(benchmark="chestxdet10")
    asked = make_prompts(["Nodule", "Fracture"], config.prompts)
    assert asked.positive_FT == (("There is Lung Nodule",), ("There is Bone Fracture",))
    assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config  # as a job gets it
    with pytest.raises(ValueError, match="sets the prompts"):
        EvaluateConfig(benchmark="chestxdet10", prompts=PromptConfig(positive=("I see {finding}.",)))
    with pytest.raises(ValueError, match="known are ct_rate_18"):
        EvaluateConfig(benchmark="imagenet")


def test_published_boxes_of_films_land_on_the_films_that_the_model_sees(tmp_path):
    """ChestXDet10's box, x 100 to 199 and y 300 to 349 of 1,024 pixels, on a grid of half the size; the other film shows nothing."""
    source, index, truth = tmp_path / "published", tmp_path / "index", tmp_path / "truth"
    for folder in (source, index):
        folder.mkdir()
    films = [{"file_name": "a.png", "syms": ["Mass"], "boxes": [[100, 300, 199, 349]]}]
    films += [{"file_name": name, "syms": [], "boxes": []} for name in ("b.png", "elsewhere.png")]
    (source / "test.json").write_text(json.dumps(films))
    ids = [{"study_id": f"s{k}", "patient_id": f"p{k}", "status": "ok"} for k in "ab"]
    tables = {
        "index_studies": [{**one, "study_uid": f"1.{k}", "accession": f"acc{k}"} for k, one in enumerate(ids)],
        "index_instances": [
            {**one, "instance_id": f"i{k}", "sop_instance_uid": f"9.{k}", "file": f"wrapped/{k}.dcm"}
            for k, one in zip("ab", ids, strict=True)
        ],
    }
    for schema, rows in tables.items():
        write_manifest(index / f"{schema.removeprefix('index_')}.parquet", manifest_frame(rows, schema), schema)
    options = TruthTableOptions(benchmark="chestxdet10", index=(index,))
    summary = make_truth_table("chestxdet10", source, truth, options)
    assert (summary["published"]["images"], summary["images"], summary["masks"]) == (3, 2, 2)
    images = []
    for one, letter in zip(ids, "ab", strict=True):
        write_film(tmp_path / "04" / f"{letter}.png", np.zeros((512, 512), np.uint16))
        row = {"instance_id": f"i{letter}", "path": f"{letter}.png", "view": "PA", "valid_box": [0, 512, 0, 512]}
        images.append({**one, **row, "to_original": [2.0, 0.0, 0.5, 0.0, 2.0, 0.5, 0.0, 0.0, 1.0]})
    resampled, split = tmp_path / "04" / "manifest.parquet", tmp_path / "split.parquet"
    write_manifest(resampled, manifest_frame(images, "resample_films"), "resample_films")
    write_manifest(split, manifest_frame([{**one, "split": "test"} for one in ids], "split"), "split")
    out = tmp_path / "made" / "manifest.parquet"
    make_truth(truth_dir=truth, pseudonyms=None, resampled=[resampled], split=split, out_path=out)
    studies = read_cohort(resampled=[resampled], split=split, truth=out, features=[]).studies["test"]
    assert [sorted(study.findings) for study in studies] == [["Mass"], []]
    expected = np.zeros((1, 512, 512), bool)
    expected[0, 150:175, 50:100] = True
    mass = json.loads((truth / "findings.json").read_text())
    bit = next(int(bit) for bit, name in mass.items() if name == "Mass")
    np.testing.assert_array_equal(studies[0].bits() >> bit & 1, expected)
    assert not studies[1].bits().any()
    for file in truth.glob("*.png"):
        file.unlink()
    make_truth(truth_dir=truth, pseudonyms=None, resampled=[resampled], split=split, out_path=out)
    rows = read_truth(out)[0].sort("study_id")
    assert rows["path"].to_list() == [None, None] and rows["findings"].to_list() == [["Mass"], []]
