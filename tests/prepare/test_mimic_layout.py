"""MIMIC-CXR as published, DICOM and JPG: folders, report files, labels and split meet under the same pseudonyms, with no step by hand."""

import json

import numpy as np
import polars as pl
import pytest
from dicom_builder import write_dataset
from film_builder import CAPTURES, film_dataset
from PIL import Image

from glint.cli.__main__ import main
from glint.formats.manifest import read_manifest

FILMS = {
    "02aa804e-bde0afdd": ("p10/p10000032", "s50414267"),
    "174413ec-4ec4c1f7": ("p10/p10000032", "s50414267"),
    "2a2277a9-b0ded155": ("p10/p10000764", "s57375967"),
    "e084de3b-be89b11e": ("p10/p10000898", "s53911762"),
}
TABLES = {
    "mimic-cxr-2.0.0-chexpert.csv": "subject_id,study_id,Cardiomegaly,Pleural Effusion\n"
    "10000032,50414267,-1.0,1.0\n10000764,57375967,,0.0\n",
    "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\n02aa804e-bde0afdd,50414267,10000032,train\n"
    "174413ec-4ec4c1f7,50414267,10000032,train\n2a2277a9-b0ded155,57375967,10000764,validate\n"
    "e084de3b-be89b11e,53911762,10000898,test\n",
}
TEXT = " FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n FINDINGS: Small right effusion of {}.\n"


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 4000, (64, 48)).astype(np.uint16)


def as_dicom(folder):
    """No accession number: the folder alone names the study."""
    for number, (film, (patient, study)) in enumerate(FILMS.items()):
        elements = {
            "PatientID": patient[5:],
            "AccessionNumber": "",
            "StudyInstanceUID": f"1.2.{int(study[1:])}",
            "SeriesInstanceUID": f"1.3.{number + 1}",
            "SOPInstanceUID": f"1.4.{number + 1}",
        }
        write_dataset(folder / "files" / patient / study / f"{film}.dcm", film_dataset(pixels(number), **elements))
    return [folder / "files"], {"report_key": "folder"}


def as_jpg(folder):
    for number, (film, (patient, study)) in enumerate(FILMS.items()):
        path = folder / "files" / patient / study / f"{film}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels(number) >> 4).astype(np.uint8)).save(path)
    wrapped = folder / "wrapped"
    assert main(["pictures", "--folder", str(folder / "files"), "--out", str(wrapped), "--layout", "mimic_cxr"]) == 0
    return [wrapped], {"report_key": "accession", **CAPTURES}


@pytest.mark.parametrize("published", [as_dicom, as_jpg])
def test_reports_labels_and_split_find_their_study(tmp_path, published):
    raw, how = published(tmp_path)
    for patient, study in set(FILMS.values()):
        (tmp_path / "texts" / patient).mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / patient / f"{study}.txt").write_text(TEXT.format(study))
    table, key, index = tmp_path / "reports.csv", tmp_path / "key", tmp_path / "index"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    assert (
        main(["report-table", "--layout", "mimic_text", "--source", str(tmp_path / "texts"), "--out", str(table)]) == 0
    )
    config = {"num_shards": 1, "raw_dirs": [str(one) for one in raw], "report_table": str(table), **how}
    config |= {"key_column": "id", "text_column": "text"}
    arguments = ["--modality", "cxr", "--config", json.dumps(config)]
    assert main(["index", "images", *arguments, "--out", str(index / "images"), "--key-file", str(key)]) == 0
    reports = index / "reports"
    assert main(["index", "reports", *arguments, "--images", str(index / "images"), "--out", str(reports)]) == 0
    joined = read_manifest(reports / "reports.parquet", "index_reports")
    assert joined["reason"].to_list() == [None] * 3
    study_of = {text.split()[-1].rstrip("."): name for name, text in joined.select("study_id", "text").iter_rows()}
    assert study_of.keys() == {"s50414267", "s57375967", "s53911762"}

    tables, truth = tmp_path / "tables", tmp_path / "truth"
    tables.mkdir()
    for name, text in TABLES.items():
        (tables / name).write_text(text)
    of_index = ["--index", str(index / "images" / "shard-000"), "--uncertain", "absent"]
    assert main(["truth-table", "mimic_cxr", str(tables), *of_index, "--out", str(truth)]) == 0
    instances = read_manifest(index / "images" / "shard-000" / "instances.parquet", "index_instances")
    known = dict(instances.select("instance_id", "study_id").iter_rows())
    labels = {known.get(row["id"], row["id"]): row for row in pl.read_csv(truth / "labels.csv").to_dicts()}
    effusion = {study: labels[name]["Pleural Effusion"] for study, name in study_of.items() if name in labels}
    assert effusion == {"s50414267": 1, "s57375967": 0}  # nobody labelled the third
    splits = dict(pl.read_csv(truth / "splits.csv").iter_rows())
    assert [splits[study_of[one]] for one in ("s50414267", "s57375967", "s53911762")] == ["train", "validation", "test"]
    assert "50414267" not in (truth / "labels.csv").read_text() + (truth / "splits.csv").read_text()
