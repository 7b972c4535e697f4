"""Every real CT file through stages 01 to 04, every X-ray file to 08, as commands, with the outcome that its README implies; masks on images."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from film_builder import CAPTURES, road

from glint.cli.__main__ import main
from glint.core.config.convert import ConvertConfig
from glint.core.geometry import reorient
from glint.formats.feature_cache import FeatureCache
from glint.formats.image import read_film
from glint.formats.manifest import read_manifest
from glint.formats.nifti import read_nifti
from glint.prepare.convert import read_series
from glint.prepare.resample import resample_labels, resample_mask, resample_volume

SHARD = "shard-000"
# Folder → number of its DICOM files, {reason: series} after stage 03 (None: a volume), {reason: studies} after stage 04,
# what stage 01 itself sets aside. Without a series UID, files can't be told apart: which of them are one volume is a
# guess that stage 01 does not make.
SERIES = {
    "1_ct_dicom/cip_ct64": (79, {None: 1}, {None: 1}, {}),
    "1_ct_dicom/dcm_qa_ct_ge": (28, {"not_chest": 1}, {"not_chest": 1}, {"not_chest": 1}),
    "1_ct_dicom/dicom2nifti_failing": (
        8,
        {"gantry_tilt": 1, "missing_slice": 1},
        {"gantry_tilt": 1, "missing_slice": 1},
        {},
    ),
    # the image that lies there twice is kept once
    "1_ct_dicom/dicom_numpy_dupes": (11, {"variable_spacing": 1}, {"variable_spacing": 1}, {"duplicate_image": 1}),
    "1_ct_dicom/ibsi_sts_ge": (
        49,
        {"not_chest": 1, "not_a_ct_image": 1},
        {"no_usable_series": 1},
        {"not_chest": 1, "not_a_ct_image": 1},
    ),
    "1_ct_dicom/lungmask_minimal": (2, {"too_few_slices": 1}, {"too_few_slices": 1}, {}),
    "1_ct_dicom/tcia_covid19_ny_sbu_slices": (
        12,
        {"one_slice": 4, "reformat": 8},
        {"no_usable_series": 4},
        {"one_slice": 4, "reformat": 8},
    ),
    "1_ct_dicom/totalsegmentator_dicom": (20, {}, {}, {"missing_series_uid": 20}),
    "6_ct_nifti_masks/dcmqi_ct3slice_seg": (
        5,
        {"too_few_slices": 1, "not_a_ct_image": 2},
        {"no_usable_series": 1},
        {"not_a_ct_image": 2},
    ),
}
WITHOUT_DICOM = ("6_ct_nifti_masks/cip_ct64", "6_ct_nifti_masks/totalsegmentator_example")
FUJI, NEMA, RSNA = "gdcm_cr_mono1_three_encodings", "nema_wg04_rg1", "rsna_jpeg_baseline"
RSNA_FILM = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
WHOLE = [0, 518, 0, 518]
# set, file, index configuration, reason or None, facts of stage 03, valid box of stage 04
FILMS = [
    (FUJI, "gdcm-CR-MONO1-10-chest.dcm", {}, None, {"inverted": True, "spacing_mm_yx": None, "voi": "LINEAR"}, WHOLE),
    (FUJI, "fodicom-CR-MONO1-10-chest.nometa", {}, None, {"inverted": True, "spacing_mm_yx": None}, WHOLE),
    (FUJI, "panimg-cxr.dcm", {}, None, {"inverted": True, "spacing_mm_yx": [0.1, 0.1]}, WHOLE),
    (
        NEMA,
        "RG1_J2KI.dcm",
        {},
        None,
        {"inverted": True, "spacing_mm_yx": None, "spacing_source": "none"},
        [0, 518, 15, 503],
    ),
    (RSNA, RSNA_FILM, {}, "secondary_capture", {}, None),
    (
        RSNA,
        RSNA_FILM,
        CAPTURES,
        None,
        {"inverted": False, "spacing_mm_yx": [0.168, 0.168], "voi": "none"},
        WHOLE,
    ),
    (RSNA, "Fake_MONOHR1.dcm", {}, "secondary_capture", {}, None),
    (RSNA, "Fake_MONOHR1.dcm", CAPTURES, None, {"inverted": True, "spacing_mm_yx": [0.168, 0.168]}, WHOLE),
]
NO_IMAGE = {".md", ".txt"}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def indexed(source: Path, folder: Path) -> tuple[int, tuple[object, ...]]:
    """Stage 01 on a copy of `source`: its exit code, and the key's arguments."""
    raw, restricted = folder / "raw", folder / "restricted"
    shutil.copytree(source, raw)
    for path in [raw, *raw.rglob("*")]:
        path.chmod(0o755)
    restricted.mkdir()
    key = restricted / "key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    given = ("--key-file", key)
    config = json.dumps({"num_shards": 1})
    return run("index", "images", "--raw", raw, "--out", restricted / "i", "--config", config, *given), given


def reasons(rows: pl.DataFrame) -> dict[str | None, int]:
    assert all((row["reason"] is None) == (row["status"] == "ok") for row in rows.to_dicts())
    return dict(Counter(rows["reason"].to_list()))


def test_every_real_image_has_a_row(real_data):
    folders = {
        f"{kind}/{entry.name}" for kind in ("1_ct_dicom", "6_ct_nifti_masks") for entry in (real_data / kind).iterdir()
    }
    assert folders == {*SERIES, *WITHOUT_DICOM}
    films = {
        path.relative_to(real_data / "2_cxr_dicom") for path in (real_data / "2_cxr_dicom").rglob("*") if path.is_file()
    }
    assert {str(film) for film in films if film.suffix not in NO_IMAGE} == {f"{row[0]}/{row[1]}" for row in FILMS}


@pytest.mark.parametrize("folder", SERIES)
def test_every_real_series_ends_as_its_readme_implies(real_data, tmp_path, folder):
    num_files, series, studies, set_aside = SERIES[folder]
    code, key = indexed(real_data / folder, tmp_path)
    assert code == 0
    index, clean, made, on_grid = (
        tmp_path / "restricted" / "i",
        *(tmp_path / stage / "manifest.parquet" for stage in ("02", "03", "04")),
    )
    assert pl.read_parquet(index / "other_files.parquet").height + num_files == sum(
        path.is_file() for path in (tmp_path / "raw").rglob("*")
    )
    assert dict(Counter(pl.read_parquet(index / "quarantine.parquet")["reason"].to_list())) == set_aside
    assert run("deidentify", "images", "--index", index / SHARD, "--out", clean, *key) == 0
    assert run("convert", "--manifest", clean, "--out", made) == 0
    assert run("resample", "--manifest", made, "--out", on_grid) == 0
    assert reasons(read_manifest(made, "convert")) == series
    assert reasons(read_manifest(on_grid, "resample")) == studies
    if folder == "1_ct_dicom/cip_ct64":
        volume, affine = read_nifti(on_grid.parent / read_manifest(on_grid, "resample")["path"][0])
        lungs, lung_affine = nrrd_volume(real_data / "6_ct_nifti_masks/cip_ct64/wholeLung-64.nrrd")
        inside = volume[resample_mask(lungs > 0, lung_affine, affine, volume.shape) > 0]
        assert -900 < inside.mean() < -800  # README: the lung labels have means of -850 to -900 HU


@pytest.mark.parametrize("folder", WITHOUT_DICOM)
def test_a_folder_of_volumes_that_are_no_dicom_is_told_in_one_line(real_data, tmp_path, capsys, folder):
    code, _ = indexed(real_data / folder, tmp_path)
    assert code == 1
    assert "no DICOM file among" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "restricted" / "i" / SHARD).exists()


def nrrd_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(Z, Y, X) and its RAS affine."""
    nrrd = pytest.importorskip("nrrd")
    values, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([*header["space directions"], header["space origin"]])
    return values.T, affine


def test_a_real_segmentation_lands_on_its_image(real_data, tmp_path):
    source = real_data / "1_ct_dicom/totalsegmentator_dicom"
    for number, file in enumerate(sorted((source / "example_ct_dicom").iterdir())):
        shutil.copy(file, tmp_path / f"{number:04d}.dcm")
    volume = read_series(tmp_path, ConvertConfig(min_lung_fraction=0.0))
    hu, affine = reorient(volume.hu_ZYX, volume.affine)
    labels, label_affine = reorient(*read_nifti(next(source.rglob("example_seg_dicom.nii.gz"))))
    np.testing.assert_allclose(affine, label_affine, atol=0.02)
    assert hu[labels == 5].mean() == pytest.approx(89, abs=5)


@pytest.mark.parametrize(("organ", "hu"), [("heart", -60), ("liver", 45), ("spine", 251)])
def test_the_real_labels_beside_three_slices_land_on_fat_liver_and_bone(real_data, organ, hu):
    """Medians within the drawn outline on the scan itself, and again on a coarser grid."""
    source = real_data / "6_ct_nifti_masks/dcmqi_ct3slice_seg"
    volume = read_series(source / "ct-3slice", ConvertConfig(min_slices=2, min_lung_fraction=0.0))
    labels, label_affine = nrrd_volume(source / f"{organ}_seg.nrrd")
    drawn = resample_labels((labels > 0).astype(np.uint8), label_affine, volume.affine, volume.hu_ZYX.shape) > 0
    assert drawn.sum() == (labels > 0).sum()
    assert np.median(volume.hu_ZYX[drawn]) == pytest.approx(hu, abs=1)
    made = resample_volume(volume.hu_ZYX, volume.affine, spacing_mm=(1, 1.5, 1.5), grid=(3, 256, 256))
    on_grid = resample_mask(labels > 0, label_affine, made.affine, made.volume_ZYX.shape) > 0
    assert made.volume_ZYX[on_grid].mean() == pytest.approx(volume.hu_ZYX[drawn].mean(), abs=5)


@pytest.mark.parametrize(
    ("place", "name", "index", "reason", "facts", "box"),
    FILMS,
    ids=[f"{row[0][:4]}-{row[1][:8]}-{row[3]}" for row in FILMS],
)
def test_every_real_film_comes_out_as_its_readme_implies(
    real_data, tmp_path, film_cohort, place, name, index, reason, facts, box
):
    made = road(tmp_path, [real_data / "2_cxr_dicom" / place / name], index)
    (film,) = read_manifest(made["convert"], "convert_films").to_dicts()
    (study,) = read_manifest(made["resample"], "resample_films").to_dicts()
    assert (film["status"], film["reason"]) == (("ok", None) if reason is None else ("quarantined", reason))
    assert {key: film[key] for key in facts} == facts
    assert (study["status"], study["valid_box"]) == (film["status"], box)
    if reason is None:
        assert film["view"] == study["view"] == "PA"
        assert read_film(made["resample"].parent / study["path"]).shape == (518, 518)
    (tokens,) = encoded(made["resample"], film_cohort / "teacher", tmp_path / "08")
    assert (tokens["status"], tokens["reason"]) == (study["status"], study["reason"])


def test_the_three_encodings_of_the_fuji_film_are_equal_pixel_by_pixel_at_the_end_of_the_road(real_data, tmp_path):
    ends = []
    for number, row in enumerate(FILMS[:3]):
        made = road(tmp_path / str(number), [real_data / "2_cxr_dicom" / row[0] / row[1]], {})
        (study,) = read_manifest(made["resample"], "resample_films").to_dicts()
        ends.append(read_film(made["resample"].parent / study["path"]))
    assert all(np.array_equal(end, ends[0]) for end in ends)


TEACHER = {
    "windows": [[0, 65535]],
    "encoder": {"patch": [1, 37, 37], "width": 24, "depth": 1, "heads": 2},
    "pretrain": {"steps": 1, "warmup_steps": 0, "levels": [0], "batch_size": 2, "appearance_width": 8},
    "threads": 1,
}


def encoded(manifest: Path, teacher: Path, out: Path) -> list[dict[str, object]]:
    """Stage 08: its rows; what it accepts is read back and is finite."""
    encode = ["--manifest", manifest, "--teacher", teacher, "--out", out / "manifest.parquet"]
    assert run("features", "encode", *encode, "--config", json.dumps({"layers": [0], "precision": "float32"})) == 0
    rows = read_manifest(out / "manifest.parquet", "features").to_dicts()
    for row in rows:
        if row["status"] == "ok":
            cache = FeatureCache(out / row["path"], fingerprint=row["fingerprint"])
            tokens = cache.read(0, [cache.row(row["study_id"])])
            assert tokens.shape == (1, 14 * 14, 24) and np.isfinite(tokens).all() and tokens.std() > 0
    return rows


@pytest.fixture(scope="module")
def film_cohort(real_data, tmp_path_factory) -> Path:
    """A film of each set with a report through stages 01 to 07, as commands."""
    folder = tmp_path_factory.mktemp("cohort")
    names = {FUJI: "panimg-cxr.dcm", NEMA: "RG1_J2KI.dcm", RSNA: RSNA_FILM}
    made = road(folder, [real_data / "2_cxr_dicom" / place / name for place, name in names.items()], CAPTURES)
    studies, table, key = folder / "index" / "studies.parquet", folder / "reports.csv", folder / "key"
    uids = pl.read_parquet(studies).select(uid="study_uid", report=pl.lit("FINDINGS: Small left pleural effusion."))
    uids.write_csv(table)
    index = {"num_shards": 1, "report_table": str(table), "report_key": "study_uid", "key_column": "uid"}
    texts, sections, split = (folder / name / "manifest.parquet" for name in ("texts", "sections", "split"))
    indexed = ["--images", folder / "index", "--out", folder / "reports", "--config", json.dumps(index)]
    assert run("index", "reports", "--modality", "cxr", *indexed) == 0
    cleaned = ["--reports", folder / "reports" / SHARD / "reports.parquet", "--studies", studies]
    assert run("deidentify", "reports", *cleaned, "--out", texts, "--key-file", key) == 0
    assert run("sections", "--manifest", texts, "--out", sections) == 0
    everyone = ["--config", json.dumps({"train": 1.0, "validation": 0.0, "test": 0.0})]
    assert run("split", "--manifests", made["deidentify"], "--out", split, "--key-file", key, *everyone) == 0
    teacher = ["--resampled", made["resample"], "--split", split, "--out", folder / "teacher"]
    assert run("teacher", *teacher, "--state", folder / "state", "--config", json.dumps(TEACHER)) == 0
    return folder


def test_a_film_of_every_real_set_reaches_the_teachers_tokens_beside_its_report(film_cohort, tmp_path):
    rows = encoded(film_cohort / "resample" / "manifest.parquet", film_cohort / "teacher", tmp_path)
    assert [row["status"] for row in rows] == ["ok"] * 3
    sections = read_manifest(film_cohort / "sections" / "manifest.parquet", "sections")
    split = read_manifest(film_cohort / "split" / "manifest.parquet", "split")
    for table in (sections, split):
        assert sorted(table["study_id"]) == sorted(row["study_id"] for row in rows) and set(table["status"]) == {"ok"}


@pytest.mark.parametrize("place", [FUJI, RSNA])
def test_one_identifier_on_different_files_is_a_conflict_and_nothing_of_it_passes(real_data, tmp_path, place):
    """The Fuji film's wrappings differ in spacing, the RSNA twins in their photometric interpretation."""
    made = road(tmp_path, [real_data / "2_cxr_dicom" / row[0] / row[1] for row in FILMS if row[0] == place], CAPTURES)
    assert reasons(read_manifest(made["resample"], "resample_films")) == {"conflicting_duplicates": 1}


@pytest.mark.slow
def test_real_films_with_clinical_notes_take_the_whole_road_with_no_step_by_hand(real_data, film_cohort, tmp_path):
    """The 28 films of generalblockchain_covid_cxr, from pictures and a table to sections and tokens: a tinted one is refused by `glint
    pictures`, a thumbnail by stage 03."""
    source, restricted = real_data / "4_cxr_text_masks" / "generalblockchain_covid_cxr", tmp_path / "restricted"
    wrapped, reports, key = restricted / "wrapped", restricted / "reports.csv", film_cohort / "key"
    layout = ["--layout", "covid_chestxray", "--table", source / "metadata.csv", "--reports", reports]
    assert run("pictures", "--folder", source / "images", "--out", wrapped, *layout) == 0
    index = ["--modality", "cxr", "--config"]
    index += [json.dumps({"num_shards": 1, "raw_dirs": [str(wrapped)], "report_table": str(reports), **CAPTURES})]
    images, joined = restricted / "images", restricted / "joined"
    assert run("index", "images", "--out", images, "--key-file", key, *index) == 0
    assert run("index", "reports", "--images", images, "--out", joined, *index) == 0
    clean, texts, made, on_grid, sections = (
        tmp_path / name / "manifest.parquet" for name in ("2", "2r", "3", "4", "5")
    )
    assert run("deidentify", "images", "--index", images / SHARD, "--out", clean, "--key-file", key) == 0
    cleaned = ["--reports", joined / SHARD / "reports.parquet", "--studies", images / "studies.parquet"]
    assert run("deidentify", "reports", *cleaned, "--out", texts, "--key-file", key) == 0
    for stage, before, after in (("convert", clean, made), ("resample", made, on_grid)):
        assert run(stage, "--modality", "cxr", "--manifest", before, "--out", after) == 0
    assert run("sections", "--manifest", texts, "--out", sections) == 0
    assert reasons(read_manifest(on_grid, "resample_films")) == {None: 26, "too_small": 1}
    assert Counter(row["status"] for row in encoded(on_grid, film_cohort / "teacher", tmp_path / "8")) == {
        "ok": 26,
        "quarantined": 1,
    }
    assert Counter(read_manifest(sections, "sections")["status"].to_list()) == {"ok": 26, "quarantined": 1}
    assert pl.read_parquet(joined / "quarantine.parquet")["reason"].to_list() == ["no_study"]  # the tinted film's notes
