"""Patients, not studies, are divided; nobody moves when others come; leakage is refused."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.cli.__main__ import main
from glint.core.config.split import SplitConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.split import check_leakage, read_official, split_of_patient, split_studies

CONFIG = SplitConfig()


def series_row(study: str, patient: str | None, series: str, **changes):
    row = {"study_id": study, "patient_id": patient, "series_id": series, "kind": "volume", "status": "ok"}
    return row | {"reason": None, "input_digest": f"digest of {series}"} | changes


def series(rows) -> pl.DataFrame:
    return manifest_frame(list(rows), "deidentify_images")


def cohort(count: int) -> pl.DataFrame:
    """Two studies of each of `count` patients."""
    return series(series_row(f"s{p:04d}{v}", f"p{p}", f"r{p}-{v}") for p in range(count) for v in "ab")


def patient_in(split: str, config: SplitConfig = CONFIG) -> str:
    return next(p for p in (f"p{i}" for i in range(1000)) if split_of_patient(p, config) == split)


def test_all_studies_of_a_patient_share_one_split():
    frame = split_studies(cohort(200), CONFIG)
    assert frame.height == 400
    assert frame.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1


def test_shares_hold_within_the_scatter_of_a_fair_draw():
    count = 4000
    drawn = [split_of_patient(f"p{i}", CONFIG) for i in range(count)]
    for name in ("train", "validation", "test"):
        share = getattr(CONFIG, name)
        assert abs(drawn.count(name) / count - share) < 4 * math.sqrt(share * (1 - share) / count)


@given(st.sets(st.integers(0, 119), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_nobody_moves_when_others_come_or_go(patients):
    everyone = dict(split_studies(cohort(120), CONFIG).select("patient_id", "split").rows())
    some = split_studies(cohort(120).filter(pl.col("patient_id").is_in([f"p{i}" for i in patients])), CONFIG)
    assert all(everyone[patient] == split for patient, split in some.select("patient_id", "split").rows())


def test_another_seed_is_another_division():
    drawn = [[split_of_patient(f"p{i}", SplitConfig(seed=seed)) for i in range(200)] for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_the_order_of_rows_does_not_matter():
    frame = cohort(30)
    assert split_studies(frame.reverse(), CONFIG).equals(split_studies(frame, CONFIG))


def test_studies_without_an_accepted_volume_or_patient_stay_out():
    frame = series(
        [
            series_row("s1", "p1", "r1", status="quarantined", reason="too_few"),
            series_row("s2", "p2", "r2", kind="localizer"),
            series_row("s3", None, "r3"),
            series_row("s4", "p4", "r4", status="quarantined", reason="too_few"),
            series_row("s4", "p4", "r5"),
        ]
    )
    got = split_studies(frame, CONFIG).select("study_id", "status", "reason", pl.col("split").is_null()).rows()
    assert got == [
        ("s1", "quarantined", "no_accepted_series", True),
        ("s2", "quarantined", "no_accepted_series", True),
        ("s3", "quarantined", "no_patient", True),
        ("s4", "ok", None, False),
    ]


@pytest.mark.parametrize("shared", ["series_id", "input_digest"])
def test_the_same_images_under_two_patients_do_not_straddle_splits(shared):
    rows = [series_row("s1", patient_in("train"), "r1"), series_row("s2", patient_in("test"), "r2")]
    rows[1][shared] = rows[0][shared]
    got = split_studies(series(rows), CONFIG).select("study_id", "split", "reason").rows()
    assert got == [("s1", "train", None), ("s2", None, "duplicate_across_splits")]


def test_a_study_of_two_patients_is_an_error_in_one_line():
    with pytest.raises(InputError, match="study s1 belongs to 2 patients"):
        split_studies(series([series_row("s1", "p1", "r1"), series_row("s1", "p2", "r2")]), CONFIG)


def test_the_leakage_check_sees_a_patient_and_an_image_in_two_splits():
    rows = [
        {"study_id": "s1", "patient_id": "p1", "split": "train", "status": "ok"},
        {"study_id": "s2", "patient_id": "p1", "split": "test", "status": "ok"},
        {"study_id": "s3", "patient_id": "p3", "split": "test", "status": "ok"},
    ]
    with pytest.raises(InputError, match="leakage: 1 patients and 1 images") as refusal:
        check_leakage(manifest_frame(rows, "split"), {"s1": {"x"}, "s2": set(), "s3": {"x"}})
    assert "\n" not in str(refusal.value)
    check_leakage(manifest_frame(rows[::2], "split"), {"s1": {"x"}, "s3": {"y"}})


def test_the_command_joins_all_shards_and_says_what_it_did(tmp_path, capsys):
    whole = cohort(40)
    paths = []
    for number in (0, 1):
        path = tmp_path / f"shard-{number:03d}" / "manifest.parquet"
        write_manifest(path, whole.filter(pl.int_range(pl.len()) % 2 == number), "deidentify_images")
        paths.append(str(path))
    out = tmp_path / "06_split" / "manifest.parquet"
    assert main(["split", "--manifests", *paths, "--out", str(out), "--config", '{"seed": 3}']) == 0
    assert read_manifest(out, "split").equals(split_studies(whole, SplitConfig(seed=3)))
    assert "train" in capsys.readouterr().err


def test_a_cohort_with_nobody_to_train_on_is_refused(tmp_path, capsys):
    path = tmp_path / "manifest.parquet"
    write_manifest(path, series([series_row("s1", "p1", "r1", status="quarantined", reason="x")]), "deidentify_images")
    assert main(["split", "--manifests", str(path), "--out", str(tmp_path / "out.parquet")]) == 1
    assert "no study to train on" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    "shares", [{"train": 0.5, "validation": 0.1, "test": 0.1}, {"train": 1.0, "validation": 0.0, "test": 0.1}]
)
def test_shares_that_are_no_whole_are_refused(shares):
    with pytest.raises(ValueError, match="must be 1"):
        SplitConfig(**shares)


def official_table(folder, text: str):
    (folder / "split.csv").write_text("dicom_id,study_id,subject_id,split\n" + text)
    return SplitConfig(official=str(folder / "split.csv"))


def test_a_published_split_is_kept_and_who_is_not_in_it_is_left_out(tmp_path):
    """Columns and names of mimic-cxr-2.0.0-split.csv; nothing of the original ids is in the manifest."""
    key = tmp_path / "key"
    key.write_text(bytes(range(32)).hex())
    key.chmod(0o600)
    config = official_table(
        tmp_path, "d1,50,10000032,train\nd2,51,10000032,train\nd3,52,10000764,validate\nd4,53,10000898,test\n"
    )
    names = Pseudonyms(bytes(range(32)))
    studies = {"10000032": "train", "10000764": "validation", "10000898": "test", "10009999": None}
    rows = [series_row(f"s{raw}", names.patient_id(raw), f"r{raw}", kind="film") for raw in studies]
    write_manifest(tmp_path / "m.parquet", series(rows), "deidentify_images")
    out = tmp_path / "out.parquet"
    arguments = ["--manifests", str(tmp_path / "m.parquet"), "--out", str(out), "--key-file", str(key)]
    assert main(["split", *arguments, "--config", config.model_dump_json()]) == 0
    made = read_manifest(out, "split")
    assert dict(made.select(pl.col("study_id").str.slice(1), "split").rows()) == studies
    assert made.filter(pl.col("split").is_null())["reason"].to_list() == ["not_in_official_split"]
    assert "10000032" not in made.drop("study_id").write_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [("d,1,7,train\nd,2,7,test\n", "a patient lies in"), ("d,1,7,holdout\n", "names a split 'holdout'")],
)
def test_a_published_split_that_contradicts_itself_is_refused(tmp_path, text, said):
    config = official_table(tmp_path, text)
    with pytest.raises(InputError, match=said):
        read_official(tmp_path / "split.csv", config, Pseudonyms(bytes(32)))


def test_a_published_division_goes_before_the_hash_and_a_patients_other_studies_follow():
    train, test = patient_in("train"), patient_in("test")
    frame = series(series_row(f"{p}-{v}", p, f"r{p}{v}") for p in (train, test) for v in "ab")
    assigned = {f"{train}-a": "test", f"{test}-b": "excluded", "unseen": "validation"}
    places = {
        row["study_id"]: (row["split"], row["reason"])
        for row in split_studies(frame, CONFIG, assigned=assigned).to_dicts()
    }
    assert places == {
        f"{train}-a": ("test", None),
        f"{train}-b": ("test", None),
        f"{test}-a": ("test", None),
        f"{test}-b": (None, "excluded_from_cohort"),
    }


def test_a_patient_named_in_two_splits_is_refused_and_not_named():
    frame = series(series_row(f"s{v}", "p7", f"r{v}") for v in "ab")
    with pytest.raises(InputError, match="1 patients lie in two splits") as error:
        split_studies(frame, CONFIG, assigned={"sa": "test", "sb": "train"})
    assert "p7" not in str(error.value)


def test_without_a_published_division_nothing_changes():
    frame = cohort(20)
    assert split_studies(frame, CONFIG).equals(split_studies(frame, SplitConfig(assigned=""), None, {}))


def test_the_command_takes_a_published_test_set_that_is_all_there_is(tmp_path, capsys):
    manifest, table = tmp_path / "images.parquet", tmp_path / "splits.csv"
    write_manifest(manifest, cohort(3), "deidentify_images")
    table.write_text("study_id,split\n" + "".join(f"s000{p}a,test\n" for p in range(3)))
    out = tmp_path / "split.parquet"
    command = ["split", "--manifests", str(manifest), "--out", str(out), "--config", f'{{"assigned": "{table}"}}']
    assert main(command) == 0
    assert set(read_manifest(out, "split")["split"]) == {"test"}
    for text, told in (
        ("study_id,split\ns0000a,Test\n", "split 'Test'"),
        ("id,split\ns0000a,test\n", "no column 'study_id'"),
        ("study_id,split\ns0000a,test\ns0000a,train\n", "named twice"),
    ):
        table.write_text(text)
        assert main(command) == 1
        assert told in capsys.readouterr().err
    table.unlink()
    assert main(command) == 1
    assert "no such table (split.assigned)" in capsys.readouterr().err
