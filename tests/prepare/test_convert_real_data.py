"""Every real CT series through stages 01 to 03, with the outcome that its README implies; segmentations on their images."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.core.config.convert import ConvertConfig
from glint.core.geometry import reorient
from glint.formats.nifti import read_nifti
from glint.prepare.convert import read_series

SHARD = "shard-000"
# Folder → the reasons that its series end with after stage 03; None: a volume; empty: stage 01 keeps files without
# UIDs back.
OUTCOMES = {
    "1_ct_dicom/cip_ct64": {None},
    "1_ct_dicom/dcm_qa_ct_ge": {"not_chest"},
    "1_ct_dicom/dicom2nifti_failing": {"gantry_tilt", "missing_slice"},
    "1_ct_dicom/dicom_numpy_dupes": {"variable_spacing"},  # the image that lies there twice is kept once
    "1_ct_dicom/ibsi_sts_ge": {"not_chest", "not_a_ct_image"},
    "1_ct_dicom/tcia_covid19_ny_sbu_slices": {"one_slice", "reformat"},
    "1_ct_dicom/lungmask_minimal": {"too_few_slices"},
    "1_ct_dicom/totalsegmentator_dicom": set(),
    "6_ct_nifti_masks/dcmqi_ct3slice_seg": {"too_few_slices", "not_a_ct_image"},
}


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("folder", OUTCOMES)
def test_every_real_series_ends_as_its_readme_implies(real_data, tmp_path, folder):
    raw, restricted = tmp_path / "raw", tmp_path / "restricted"
    shutil.copytree(real_data / folder, raw)
    for path in [raw, *raw.rglob("*")]:
        path.chmod(0o755)
    key = ("--key-file", restricted / "key")
    restricted.mkdir()
    (restricted / "key").write_text("5a" * 32)
    (restricted / "key").chmod(0o600)
    run("index", "images", "--raw", raw, "--out", restricted / "i", "--config", json.dumps({"num_shards": 1}), *key)
    clean, made = tmp_path / "02" / "manifest.parquet", tmp_path / "03" / "manifest.parquet"
    run("deidentify", "images", "--index", restricted / "i" / SHARD, "--out", clean, *key)
    run("convert", "--manifest", clean, "--out", made)
    rows = pl.read_parquet(made)
    reasons = set(rows["reason"].to_list())
    assert reasons == OUTCOMES[folder]
    assert ("ok" in rows["status"].to_list()) == (None in reasons)


def test_a_real_segmentation_lands_on_its_image(real_data, tmp_path):
    source = real_data / "1_ct_dicom/totalsegmentator_dicom"
    for number, file in enumerate(sorted((source / "example_ct_dicom").iterdir())):
        shutil.copy(file, tmp_path / f"{number:04d}.dcm")
    volume = read_series(tmp_path, ConvertConfig(min_lung_fraction=0.0))
    hu, affine = reorient(volume.hu_ZYX, volume.affine)
    labels, label_affine = reorient(*read_nifti(next(source.rglob("example_seg_dicom.nii.gz"))))
    np.testing.assert_allclose(affine, label_affine, atol=0.02)
    assert hu[labels == 5].mean() == pytest.approx(89, abs=5)
