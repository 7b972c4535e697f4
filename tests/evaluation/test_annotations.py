"""Published annotation files, written small in their published layout, are read to the pixel and to the label."""

import dataclasses
import gzip
import json
import re
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from glint.cli.__main__ import build_parser, main
from glint.core.config.benchmarks import load_benchmarks
from glint.core.errors import InputError
from glint.evaluation.annotations.raster import box_mask, polygon_mask, relative_rle_mask
from glint.evaluation.annotations.registry import ANNOTATIONS
from glint.evaluation.annotations.splits import mgca_row_splits, mgca_splits
from glint.evaluation.annotations.truth_table import (
    TruthTableOptions,
    label_table,
    make_truth_table,
    read_annotations,
    with_benchmark,
    with_splits,
)
from glint.evaluation.queries import read_query_list
from glint.formats.model_image import read_mask_bits

CT_RATE = ["Medical material", "Lymphadenopathy", *load_benchmarks()["ct_rate_16"].findings]
CHEXPERT = ["No Finding", "Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"]
SIIM_RLE = "3 2 2 1"
"""On 4 rows x 3 columns, down the columns: pixels 3, 4 and 7, of which a reader with absolute starts finds others."""


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def ct_rate(folder):
    header = "VolumeName," + ",".join(CT_RATE)
    rows = {
        "valid_1_a_1": "Cardiomegaly",
        "valid_1_a_2": "Cardiomegaly",
        "valid_1_b_1": "",
        "valid_2_a_1": "Lung nodule",
    }
    lines = [f"{name}.nii.gz," + ",".join(str(int(one == has)) for one in CT_RATE) for name, has in rows.items()]
    write(folder, "valid_predicted_labels.csv", "\n".join([header, *lines]))
    return write(
        folder, "train_predicted_labels.csv", header + "\ntrain_7_a_1.nii.gz," + ",".join("1" for _ in CT_RATE)
    )


def rad_chestct(folder):
    return write(
        folder,
        "imgtest_Abnormality_and_Location_Labels.csv",
        "NoteAcc_DEID,nodule*left_upper,nodule*right_lung,mass*liver,calcification*aorta\n"
        "tst1,0.0,1.0,0.0,0.0\ntst2,0.0,0.0,0.0,1.0\n",
    )


def chestx_det(folder):
    entries = [
        {
            "file_name": "36204.png",
            "syms": ["Nodule", "Effusion"],
            "boxes": [[10, 20, 12, 25], [100, 200, 110, 203]],
            "polygons": [[[10, 20], [12, 20], [12, 25], [10, 25]], [[100, 200], [110, 200], [105, 203]]],
        },
        {"file_name": "36200.png", "syms": [], "boxes": [], "polygons": []},
    ]
    return write(folder, "ChestX_Det_test.json", json.dumps(entries))


def chestxdet10(folder):
    entries = [
        {"file_name": "1.png", "syms": ["Mass"], "boxes": [[5, 7, 8, 9]]},
        {"file_name": "2.png", "syms": [], "boxes": []},
    ]
    return write(folder, "test.json", json.dumps(entries))


def siim(folder):
    return write(folder, "train-rle.csv", f"ImageId, EncodedPixels\n1.2.3, {SIIM_RLE}\n1.2.3,100 4\n1.2.4, -1\n")


def rsna(folder):
    return write(
        folder,
        "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target\na-1,,,,,0\nb-2,264.0,152.0,213.0,379.0,1\nb-2,562.0,152.0,256.0,453.0,1\n",
    )


def ms_cxr(folder):
    return write(
        folder,
        "MS_CXR_Local_Alignment_v1.1.0.csv",
        "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split\n"
        "675d-792f,Pneumothorax,tiny apical pneumothorax,files/p10/p10233088/s54276838/675d-792f.jpg,30,10,20,5,60,40,val\n",
    )


def openi(folder):
    report = (
        '<eCitation><uId id="CXR{0}"/><MeSH><major>normal</major>{1}</MeSH>'
        '<parentImage id="CXR{0}_IM-1-1001"/><parentImage id="CXR{0}_IM-1-2001"/></eCitation>'
    )
    write(folder / "ecgen-radiology", "1.xml", report.format(1, ""))
    terms = "<automatic>calcified granuloma</automatic><automatic>Pleural Effusions</automatic>"
    return write(folder / "ecgen-radiology", "2.xml", report.format(2, terms)).parent


def padchest(folder):
    return write(
        folder,
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
        "ImageID,ImageDir,StudyID,PatientID,MethodLabel,Labels\n"
        "a_1.png,0,s1,p1,Physician,\"['pleural effusion', ' Cardiomegaly ', '']\"\n"
        "b_2.png,0,s2,p1,RNN_model,\"['normal']\"\nc_3.png,0,s3,p2,Physician,nan\n",
    )


def chexpert(folder):
    lines = [
        "Path,Sex,Frontal/Lateral," + ",".join(CHEXPERT),
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,M,Frontal,0.0,1.0,,-1.0,0.0,1.0",
        "CheXpert-v1.0-small/valid/patient64541/study1/view2_lateral.jpg,M,Lateral,0.0,1.0,0.0,0.0,0.0,0.0",
        "CheXpert-v1.0-small/valid/patient64542/study3/view1_frontal.jpg,F,Frontal,1.0,0.0,0.0,0.0,0.0,0.0",
    ]
    return write(folder, "valid.csv", "\n".join(lines))


def mimic_cxr(folder, labeller="chexpert"):
    """Tables of MIMIC-CXR-JPG: labels per study, gzipped as published; the third study's report has no row of labels."""
    columns = ["Atelectasis", "Cardiomegaly", "No Finding", "Pleural Effusion"]
    lines = ["subject_id,study_id," + ",".join(columns), "10000032,50414267,,-1.0,,1.0", "10000764,57375967,0.0,,1.0,"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"mimic-cxr-2.0.0-{labeller}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return write(
        folder,
        "mimic-cxr-2.0.0-split.csv",
        "dicom_id,study_id,subject_id,split\n02aa804e-bde0afdd,50414267,10000032,train\n"
        "174413ec-4ec4c1f7,50414267,10000032,train\n2a2277a9-b0ded155,57375967,10000764,validate\n"
        "e084de3b-be89b11e,53911762,10000898,test\n",
    )


def mimic_cxr_negbio(folder):
    return mimic_cxr(folder, "negbio")


def nih(folder):
    write(
        folder,
        "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,OriginalImage[Width,Height]\n"
        "00000001_000.png,Cardiomegaly|Infiltration,0,1,2682,2749\n00000002_000.png,No Finding,0,2,2500,2048\n"
        "00000003_000.png,Mass,0,3,2500,2048\n",
    )
    write(folder, "test_list.txt", "00000001_000.png\n00000002_000.png\n")
    write(folder, "train_val_list.txt", "00000003_000.png\n")
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    return write(folder, "BBox_List_2017.csv", header + "00000001_000.png,Infiltrate,100.6,200.2,10.0,3.0,,,\n")


AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.7, 0, 80], [0, 0, 1.5, -300], [0, 0, 0, 1.0]])
NAME = "train_1741_b_2.nii.gz"


def rexgroundingct(folder):
    entry = {
        "name": NAME,
        "findings": {"0": "nodule at the left base", "1": "right effusion"},
        "entity_counts": {"0": 2, "1": 1},
        "shape": [6, 5, 4],
        "categories": {"0": "2d", "1": "2e"},
    }
    test = {"name": "valid_9_a_1.nii.gz", "findings": {"0": "a nodule"}}
    write(folder, "dataset.json", json.dumps({"train": [], "val": [entry], "test": [test]}))
    masks = np.zeros((2, 6, 5, 4), np.uint8)
    masks[0, 1, 2, 3], masks[0, 4, 2, 3] = 1, 2
    masks[1, 5, 0, 0] = 1
    (folder / "segmentations").mkdir()
    image = nibabel.Nifti1Image(masks, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, folder / "segmentations" / NAME)
    (folder / "scans").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), AFFINE), folder / "scans" / NAME)
    return folder


WRITERS = {
    writer.__name__: writer
    for writer in (
        ct_rate, rad_chestct, rexgroundingct, ms_cxr, chestx_det, chestxdet10, siim, rsna, openi, padchest, chexpert, nih,
        mimic_cxr, mimic_cxr_negbio,
    )
}  # fmt: skip


@pytest.fixture
def table(tmp_path, request):
    return read_annotations(request.param, WRITERS[request.param](tmp_path))


def stated(frame, image, label="present"):
    found = frame.filter((frame["image"] == image) & (frame["label"] == label))
    return set(found["finding"].to_list())


def test_every_set_has_a_small_file_of_its_layout_here():
    assert WRITERS.keys() == ANNOTATIONS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_without_the_files_names_them(tmp_path, name):
    with pytest.raises(InputError, match=r"put the published file there|put ecgen-radiology"):
        read_annotations(name, tmp_path)


@pytest.mark.parametrize("table", ["ct_rate"], indirect=True)
def test_ct_rate_keeps_reconstruction_scan_and_patient_apart(table):
    assert [table[key].n_unique() for key in ("image", "study", "patient")] == [5, 4, 3]
    assert stated(table, "valid_1_a_2") == {"Cardiomegaly"}
    assert set(table.filter(table["study"] == "valid_1_a")["split"]) == {"test"}


@pytest.mark.parametrize("table", ["rad_chestct"], indirect=True)
def test_rad_chestct_is_present_where_any_location_is(table):
    assert stated(table, "tst1") == {"nodule"} and stated(table, "tst2") == {"calcification"}
    assert stated(table, "tst1", "absent") == {"mass", "calcification"}
    both = {"Lung nodule": "nodule", "Coronary": "calcification", "Arterial": "calcification"}
    asked = with_benchmark(table, dataclasses.replace(load_benchmarks()["rad_chestct_15"], findings=both))
    assert stated(asked, "tst2") == {"Coronary", "Arterial"}


@pytest.mark.parametrize("table", ["chestx_det"], indirect=True)
def test_chestx_det_boxes_hold_their_far_corner(table):
    boxes = dict(table.drop_nulls("finding").select("finding", "box").iter_rows())
    assert boxes == {"Nodule": [20, 26, 10, 13], "Effusion": [200, 204, 100, 111]}
    assert table.filter(table["image"] == "36200")["finding"].to_list() == [None]


@pytest.mark.parametrize("table", ["ms_cxr"], indirect=True)
def test_ms_cxr_boxes_are_corner_and_size_on_the_films_own_pixels(table):
    row = table.to_dicts()[0]
    assert row["box"] == [10, 15, 30, 50] and (row["height"], row["width"]) == (40, 60)
    assert (row["study"], row["patient"], row["split"]) == ("s54276838", "p10233088", "validation")
    assert row["sentence"] == "tiny apical pneumothorax"


def test_ms_cxr_coco_file_says_the_same_as_its_table(tmp_path):
    expected = read_annotations("ms_cxr", ms_cxr(tmp_path / "csv"))
    path = "files/p10/p10233088/s54276838/675d-792f.jpg"
    coco = {
        "images": [{"id": 3, "file_name": "675d-792f.jpg", "path": path, "width": 60, "height": 40}],
        "categories": [{"id": 5, "name": "Pneumothorax"}],
        "annotations": [
            {
                "image_id": 3,
                "category_id": 5,
                "bbox": [30, 10, 20, 5],
                "label_text": "tiny apical pneumothorax",
                "split": "val",
            }
        ],
    }
    folder = write(tmp_path / "json", "MS_CXR_Local_Alignment_v1.1.0.json", json.dumps(coco))
    assert read_annotations("ms_cxr", folder).equals(expected)


@pytest.mark.parametrize("table", ["rsna"], indirect=True)
def test_rsna_has_a_row_per_box(table):
    assert table["label"].to_list() == ["absent", "present", "present"]
    assert table["box"].to_list()[1:] == [[152, 531, 264, 477], [152, 605, 562, 818]]


@pytest.mark.parametrize("table", ["openi"], indirect=True)
def test_openi_films_take_their_reports_automatic_terms(table):
    assert stated(table, "CXR2_IM-1-2001") == {"Calcified Granuloma", "Granuloma", "Effusion"}
    assert table.filter(table["image"] == "CXR1_IM-1-1001")["finding"].to_list() == [None]


@pytest.mark.parametrize("table", ["padchest"], indirect=True)
def test_padchest_lists_are_read_without_running_them(table):
    assert stated(table, "a_1") == {"pleural effusion", "cardiomegaly"}
    assert dict(table.select("image", "split").iter_rows()) == {"a_1": "test", "b_2": "train", "c_3": "test"}
    labels, dropped = label_table(table.with_columns(id="image"), ["cardiomegaly"], "drop")
    assert labels.rows() == [("a_1", 1), ("b_2", 0)] and dropped == 1


@pytest.mark.parametrize("table", ["chexpert"], indirect=True)
def test_chexpert_tells_uncertain_from_not_mentioned(table):
    image = "patient64541/study1/view1_frontal"
    assert stated(table, image) == {"Cardiomegaly", "Pleural Effusion"}
    assert stated(table, image, "uncertain") == {"Consolidation"} and stated(table, image, "unknown") == {"Edema"}


@pytest.mark.parametrize("table", ["mimic_cxr", "mimic_cxr_negbio"], indirect=True)
def test_mimic_films_have_the_labels_of_their_study_and_the_official_split(table):
    for film in ("02aa804e-bde0afdd", "174413ec-4ec4c1f7"):
        assert stated(table, film) == {"Pleural Effusion"} and stated(table, film, "uncertain") == {"Cardiomegaly"}
    where = dict(table.select("image", "split").iter_rows())
    assert list(where.values()) == ["train", "train", "validation", "test"]
    assert set(table.select("study", "patient").iter_rows()) >= {("s50414267", "p10000032"), ("s53911762", "p10000898")}
    assert table.filter(table["image"] == "e084de3b-be89b11e").select("finding", "label").rows() == [(None, "unknown")]
    labels, dropped = label_table(table.with_columns(id="image"), ["Cardiomegaly", "Pleural Effusion"], "absent")
    assert labels.rows() == [("02aa804e-bde0afdd", 0, 1), ("174413ec-4ec4c1f7", 0, 1), ("2a2277a9-b0ded155", 0, 0)]
    assert dropped == 1


def test_another_name_of_a_split_is_refused(tmp_path):
    folder = mimic_cxr(tmp_path)
    write(folder, "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split\na,1,2,holdout\n")
    with pytest.raises(InputError, match="holds 'holdout'"):
        read_annotations("mimic_cxr", folder)


def test_mimic_labels_without_the_split_table_are_those_of_studies(tmp_path):
    folder = mimic_cxr(tmp_path)
    (folder / "mimic-cxr-2.0.0-split.csv").unlink()
    table = read_annotations("mimic_cxr", folder)
    assert set(table["image"]) == {"s50414267", "s57375967"} and table["split"].is_null().all()


@pytest.mark.parametrize("table", ["nih"], indirect=True)
def test_nih_boxes_join_the_label_that_is_spelled_otherwise(table):
    rows = table.filter(table["image"] == "00000001_000").sort("finding").to_dicts()
    assert [(row["finding"], row["box"]) for row in rows] == [
        ("Cardiomegaly", None), ("Infiltration", pytest.approx([200.2, 203.2, 100.6, 110.6]))
    ]  # fmt: skip
    assert dict(table.select("image", "split").iter_rows())["00000003_000"] == "train"


def test_a_test_list_with_labels_beside_the_names_is_a_list_too(tmp_path):
    folder = nih(tmp_path)
    write(folder, "test_list.txt", "images/00000003_000.png 0 1 0\n")
    table = read_annotations("nih", folder)
    assert dict(table.select("image", "split").iter_rows())["00000003_000"] == "test"


def test_run_lengths_are_relative_and_run_down_the_columns():
    expected = np.zeros((4, 3), bool)
    expected[3, 0] = expected[0, 1] = expected[3, 1] = True
    np.testing.assert_array_equal(relative_rle_mask(SIIM_RLE, (4, 3)), expected)
    assert not relative_rle_mask("-1", (4, 3)).any()
    for wrong, told in (("3 2 2", "pairs"), ("3 x", "whole numbers"), ("3 20", "of 12 pixels"), ("-2 1", "pairs")):
        with pytest.raises(InputError, match=told):
            relative_rle_mask(wrong, (4, 3))


def test_a_contour_holds_its_own_pixels_and_x_stands_before_y_in_the_file():
    expected = np.zeros((30, 20), bool)
    expected[20:26, 10:13] = True
    corners = [(20, 10), (20, 12), (25, 12), (25, 10)]
    np.testing.assert_array_equal(polygon_mask(corners, (30, 20)), expected)
    np.testing.assert_array_equal(box_mask([20, 26, 10, 13], (30, 20)), expected)
    assert box_mask([200.2, 203.2, 100.6, 110.6], (300, 300)).nonzero()[0].min() == 200
    assert box_mask([-5, 2, -5, 1], (4, 4)).sum() == 2


@pytest.mark.parametrize(
    ("num", "held_out", "test", "validation"),
    [(13, 0.3, [6, 11], [4, 10]), (20, 8, [8, 10, 17, 18], [1, 6, 13, 19])],
)
def test_mgca_rows_are_divided_as_scikit_learn_divides_them(num, held_out, test, validation):
    """Expected rows: two calls of scikit-learn 1.9.1's `train_test_split(random_state=0)`, the second of half the held-out rows."""
    found = mgca_row_splits(num, held_out=held_out)
    assert [row for row in range(num) if found[row] == "test"] == test
    assert [row for row in range(num) if found[row] == "validation"] == validation


def test_a_film_of_several_parts_lies_in_one_split():
    images = [f"film{k // 2}" for k in range(60)]
    by_row, found = mgca_row_splits(60, held_out=0.3), mgca_splits("siim", images)
    assert any(by_row[2 * k] != by_row[2 * k + 1] for k in range(30))
    assert all(found[f"film{k}"] == "test" for k in range(30) if "test" in by_row[2 * k : 2 * k + 2])
    with pytest.raises(InputError, match="26,684"):
        mgca_splits("rsna", images)


def test_siim_films_become_bit_fields(tmp_path):
    summary = make_truth_table("siim", siim(tmp_path / "in"), tmp_path / "out", TruthTableOptions(benchmark="siim"))
    assert (summary["masks"], summary["positives"]) == (2, {"Pneumothorax": 1})
    bits = np.array(Image.open(tmp_path / "out" / "1.2.3.png"))
    assert bits.dtype == np.uint16 and bits.shape == (1024, 1024)
    assert np.argwhere(bits).tolist() == [[3, 0], [4, 0], [7, 0], [100, 0], [101, 0], [102, 0], [103, 0]]
    assert not np.array(Image.open(tmp_path / "out" / "1.2.4.png")).any()
    assert (tmp_path / "out" / "labels.csv").read_text() == "id,Pneumothorax\n1.2.3,1\n1.2.4,0\n"


def test_twenty_findings_with_masks_fit_into_a_film_and_thirty_three_are_refused(tmp_path):
    names = [f"finding {place:02d}" for place in range(33)]
    boxes = [[place, 10, place, 10] for place in range(33)]
    for count in (20, 33):
        entries = [{"file_name": "1.png", "syms": names[:count], "boxes": boxes[:count]}]
        folder = write(tmp_path / f"in{count}", "test.json", json.dumps(entries))
        if count == 33:
            with pytest.raises(InputError, match="33 findings with masks, a mask file holds 32"):
                make_truth_table("chestxdet10", folder, tmp_path / "none", TruthTableOptions())
            continue
        make_truth_table("chestxdet10", folder, tmp_path / "out", TruthTableOptions())
        bits, _ = read_mask_bits(tmp_path / "out" / "1.png")
        assert bits.shape == (1, 1024, 1024)
        assert [(bits[0, 10, place], np.count_nonzero(bits >> place & 1)) for place in range(20)] == [
            (1 << place, 1) for place in range(20)
        ]


def test_masks_without_an_affine_take_their_scans(tmp_path):
    folder = rexgroundingct(tmp_path / "in")
    options = TruthTableOptions(benchmark="rexgroundingct_14", images=folder / "scans", exclude=("validation", "test"))
    summary = make_truth_table("rexgroundingct", folder, tmp_path / "out", options)
    assert summary["masks"] == 1 and not (tmp_path / "out" / "labels.csv").exists()
    image = nibabel.load(tmp_path / "out" / "train_1741_b.nii.gz")
    bits, names = np.asarray(image.dataobj), json.loads((tmp_path / "out" / "findings.json").read_text())
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    nodule = next(int(bit) for bit, name in names.items() if name == "Pulmonary nodule or mass")
    assert np.argwhere(bits >> nodule & 1).tolist() == [[1, 2, 3], [4, 2, 3]]
    splits = (tmp_path / "out" / "splits.csv").read_text().splitlines()
    assert "train_1741_b,excluded" in splits and "valid_9_a,excluded" in splits
    without = make_truth_table(
        "rexgroundingct", folder, tmp_path / "two", TruthTableOptions(benchmark="rexgroundingct_14")
    )
    assert without["masks"] == 0 and "--images" in next(iter(without["masks_failed"]))


def test_every_sentence_of_rexgroundingct_is_a_query_on_its_own_mask_with_or_without_a_category(tmp_path):
    folder = rexgroundingct(tmp_path / "in")
    tree = json.loads((folder / "dataset.json").read_text())
    del tree["val"][0]["categories"]["1"]
    (folder / "dataset.json").write_text(json.dumps(tree))
    options = TruthTableOptions(benchmark="rexgroundingct_14", images=folder / "scans")
    summary = make_truth_table("rexgroundingct", folder, tmp_path / "out", options)
    assert (summary["sentences"], summary["sentences_failed"]) == (2, {})
    found = read_query_list(tmp_path / "out", None)
    assert found == {"train_1741_b": [("Pulmonary nodule or mass", "nodule at the left base"), ("", "right effusion")]}
    bits = np.asarray(nibabel.load(tmp_path / "out" / "queries" / "train_1741_b.nii.gz").dataobj)
    assert np.argwhere(bits & 1).tolist() == [[1, 2, 3], [4, 2, 3]] and np.argwhere(bits & 2).tolist() == [[5, 0, 0]]


def test_a_phrase_of_ms_cxr_is_one_query_with_all_its_boxes(tmp_path):
    folder = ms_cxr(tmp_path / "in")
    file = folder / "MS_CXR_Local_Alignment_v1.1.0.csv"
    line = file.read_text().splitlines()[1]
    second = line.replace(",30,10,20,5,", ",2,30,4,3,")
    other = line.replace("tiny apical pneumothorax", "basal air").replace(",30,10,20,5,", ",50,1,2,2,")
    file.write_text("\n".join([file.read_text().strip(), second, other]))
    summary = make_truth_table("ms_cxr", folder, tmp_path / "out", TruthTableOptions(benchmark="ms_cxr_8"))
    assert summary["sentences"] == 2 and summary["masks"] == 1
    phrases = [("Pneumothorax", "tiny apical pneumothorax"), ("Pneumothorax", "basal air")]
    assert read_query_list(tmp_path / "out", None) == {"675d-792f": phrases}
    bits = np.array(Image.open(tmp_path / "out" / "queries" / "675d-792f.png"))
    assert ((bits & 1).sum(), (bits >> 1 & 1).sum()) == (20 * 5 + 4 * 3, 4) and bits[31, 3] == 1 and bits[1, 50] == 2


def test_sets_without_sentences_have_no_queries(tmp_path):
    make_truth_table("siim", siim(tmp_path / "in"), tmp_path / "out", TruthTableOptions())
    assert not (tmp_path / "out" / "queries.csv").exists() and not (tmp_path / "out" / "queries").exists()


def test_a_scan_of_two_reconstructions_counts_once_and_both_numbers_are_told(tmp_path):
    summary = make_truth_table(
        "ct_rate", ct_rate(tmp_path / "in"), tmp_path / "out", TruthTableOptions(benchmark="ct_rate_16")
    )
    assert (
        summary["published"] == {"images": 5, "studies": 4, "patients": 3}
        and summary["reconstructions_per_study"] == 1.25
    )
    lines = (tmp_path / "out" / "labels.csv").read_text().splitlines()
    assert len(lines) == 5 and "Medical material" not in lines[0] and "Lymphadenopathy" not in lines[0]
    assert summary["positives"]["Cardiomegaly"] == 2  # valid_1_a and train_7_a


def test_uncertain_labels_are_left_out_or_counted_as_told(tmp_path):
    folder, rows = chexpert(tmp_path / "in"), {}
    for counted in ("drop", "absent", "present"):
        out = tmp_path / counted
        make_truth_table("chexpert", folder, out, TruthTableOptions(uncertain=counted))
        header, *lines = (out / "labels.csv").read_text().splitlines()
        rows[counted] = {one.split(",")[0]: dict(zip(header.split(","), one.split(","), strict=True)) for one in lines}
    first = "patient64541/study1/view1_frontal"
    assert first not in rows["drop"] and len(rows["drop"]) == 2
    assert (rows["absent"][first]["Consolidation"], rows["present"][first]["Consolidation"]) == ("0", "1")
    assert rows["absent"][first]["Edema"] == "0"  # not mentioned


def test_a_list_of_ones_own_divides_by_image_or_study(tmp_path):
    table = read_annotations("ct_rate", ct_rate(tmp_path))
    (tmp_path / "mine.csv").write_text("id,split\nvalid_1_a,validation\nvalid_2_a_1.nii.gz,test\n")
    found = dict(with_splits(table, "ct_rate", str(tmp_path / "mine.csv")).select("image", "split").iter_rows())
    assert found == {
        "train_7_a_1": None, "valid_1_a_1": "validation", "valid_1_a_2": "validation", "valid_1_b_1": None, "valid_2_a_1": "test"
    }  # fmt: skip
    with pytest.raises(InputError, match="MGCA divides siim and rsna"):
        with_splits(table, "ct_rate", "mgca")


@pytest.mark.parametrize(
    ("name", "file", "text", "told"),
    [
        ("ct_rate", "valid_predicted_labels.csv", "VolumeName,Emphysema\nvalid_1_a_1.nii.gz,2\n", "column 'Emphysema' holds 2"),
        ("ct_rate", "valid_predicted_labels.csv", "Volume,Emphysema\nx,1\n", "no column 'VolumeName'"),
        ("ct_rate", "valid_predicted_labels.csv", "VolumeName,Emphysema\nscan7,1\n", "valid_1_a_1.nii.gz"),
        ("siim", "train-rle.csv", "ImageId,Pixels\n1,2\n", "no column 'EncodedPixels'"),
        ("rsna", "stage_2_train_labels.csv", "patientId,x,y,width,height,Target\na,1,x,1,1,1\n", "'y', row 2: 'x' is no number"),
        ("rsna", "stage_2_train_labels.csv", "patientId,x,y,width,height,Target\na,,,,,1\n", "row 2: Target 1 without"),
        ("chestxdet10", "test.json", '[{"file_name": "1.png", "syms": ["Mass"]}]', "entry 0 has no 'boxes'"),
        ("chestxdet10", "test.json", '[{"file_name": "1.png", "syms": ["Mass"], "boxes": []}]', "1 syms, 0 boxes"),
        ("chestxdet10", "test.json", '[{"file_name": "1.png", "syms": ["Mass"], "boxes": [[9, 1, 2, 3]]}]', "not x1, y1, x2, y2"),
        ("chestx_det", "ChestX_Det_test.json", "{", "not readable JSON"),
        ("rexgroundingct", "dataset.json", '{"val": [{"name": "valid_1_a_1.nii.gz"}]}', "entry 0 has no 'findings'"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv", "subject_id,study_id,Edema\n1,2,3\n", "column 'Edema' holds 3"),
        ("chexpert", "valid.csv", "Path,Edema\nx/y.jpg,1\n", "no patient…/study…"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_by_file_column_and_place(tmp_path, name, file, text, told):
    with pytest.raises(InputError, match=told) as error:
        read_annotations(name, write(tmp_path, file, text))
    assert "\n" not in str(error.value)


def test_benchmarks_ask_for_published_findings_under_the_names_that_others_use():
    known = load_benchmarks()
    assert {one.annotations for one in known.values()} == ANNOTATIONS.keys() - {
        "padchest",
        "mimic_cxr",
        "mimic_cxr_negbio",
    }
    assert len(known["ct_rate_18"].findings) == 18 and len(known["chexpert_5"].findings) == 5
    assert set(known["ct_rate_18"].findings) - set(known["ct_rate_16"].findings) == {
        "Medical material",
        "Lymphadenopathy",
    }
    wording = known["chestxdet10"].wording
    assert (wording["Calcification"], wording["Mass"], wording["Nodule"]) == (
        "Tissue Calcification", "Pulmonary Mass", "Lung Nodule"
    )  # fmt: skip
    assert all(set(one.wording) == set(one.findings) for one in known.values())


def test_real_chestx_det_contours_fill_their_boxes(real_data, tmp_path):
    file = real_data / "4_cxr_text_masks" / "chestx_det_annotations" / "ChestX_Det_train.json"
    entries = json.loads(file.read_text())[:400]
    table = read_annotations("chestx_det", write(tmp_path, file.name, json.dumps(entries)))
    assert table["image"].n_unique() == 400 and table["finding"].drop_nulls().n_unique() == 13
    inside = 0
    for row in table.drop_nulls("polygon").head(60).to_dicts():
        mask = polygon_mask(row["polygon"], (row["height"], row["width"]))
        ys, xs = mask.nonzero()
        inside += row["box"] == [ys.min(), ys.max() + 1, xs.min(), xs.max() + 1]
    assert inside >= 55


def test_real_nih_boxes_are_read(real_data, tmp_path):
    boxes = real_data / "4_cxr_text_masks" / "nih_bbox_and_images" / "BBox_List_2017.csv"
    films = sorted({line.split(",")[0] for line in boxes.read_text().splitlines()[1:]})
    lines = "\n".join(f"{name},Mass,{name[:8]}" for name in films)
    write(tmp_path, "Data_Entry_2017.csv", "Image Index,Finding Labels,Patient ID\n" + lines)
    (tmp_path / boxes.name).write_bytes(boxes.read_bytes())
    table = read_annotations("nih", tmp_path)
    assert table["box"].drop_nulls().len() == 984 and "Infiltrate" not in set(table["finding"])


def test_real_openi_reports_name_all_their_films(real_data):
    folder = real_data / "5_report_text" / "iu_xray"
    films = set()
    with tarfile.open(folder / "ecgen-radiology.tgz") as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                films |= set(re.findall(r'<parentImage id="([^"]+)"', archive.extractfile(member).read().decode()))
    assert set(read_annotations("openi", folder)["image"]) == films


def test_the_command_lists_the_sets_and_writes_one(tmp_path, capsys):
    assert main(["truth-table", "list"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}:" in told for name in ANNOTATIONS)
    arguments = ["truth-table", "chestx_det", str(chestx_det(tmp_path / "in")), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--benchmark", "ct_rate_16"]) == 1
    assert "it has: chestx_det_13" in capsys.readouterr().err
    assert main(arguments) == 0
    bits = np.array(Image.open(tmp_path / "out" / "36204.png"))
    names = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert names == {"0": "Effusion", "1": "Nodule"}
    assert (bits == 2).sum() == 3 * 6 and set(np.unique(bits)) == {0, 1, 2}


def test_the_page_names_every_set_every_benchmark_and_only_options_that_are():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(ANNOTATIONS)
    for name in ANNOTATIONS:
        cell = re.search(rf"^\| `{name}` \| .*? \| (.*?) \|", page, re.MULTILINE).group(1)
        assert re.findall(r"`(\w+)`", cell) == [
            one.name for one in load_benchmarks().values() if one.annotations == name
        ]
    parser = build_parser("truth-table")
    commands = re.findall(r"^ *glint (truth-table .*)$", page.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        parser.parse_args(re.sub(r"#.*", "", command).split())


def test_a_set_without_a_published_split_is_excluded_whole(tmp_path):
    folder = ms_cxr(tmp_path / "in")
    file = folder / "MS_CXR_Local_Alignment_v1.1.0.csv"
    file.write_text(file.read_text().replace(",split\n", "\n").replace(",val\n", "\n"))
    for exclude, count in ((("train", "validation", "test"), 0), (("all",), 1)):
        summary = make_truth_table("ms_cxr", folder, tmp_path / "out", TruthTableOptions(exclude=exclude))
        assert summary["excluded_studies"] == count
    assert (tmp_path / "out" / "splits.csv").read_text() == "study_id,split\ns54276838,excluded\n"
