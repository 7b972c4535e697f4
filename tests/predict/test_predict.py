"""A lesion that the model knows comes back where it lies: on the scan's own voxels, in the SEG, in the box."""

import gzip
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from dicom_builder import chest_between_neck_and_belly_hu, write_ct_series, write_dataset

from glint.cli.__main__ import main
from glint.cli.predict import read_queries
from glint.core.config.convert import ConvertConfig
from glint.core.config.resample import ResampleConfig
from glint.core.errors import InputError, Quarantine
from glint.core.geometry import voxel_to_world
from glint.formats.checkpoint import Calibration, Preprocessing
from glint.formats.nifti import read_nifti, write_nifti
from glint.model.alignment import Alignment
from glint.predict import check_queries, predict, sentences_of
from glint.predict.outputs import write_prediction
from glint.predict.scan import read_scan

SPACING_MM = (4.0, 3.0, 3.0)
GRID, PATCH = (24, 48, 64), (4, 4, 4)
PATCHES = (6, 12, 16)
LESION_HU = 900
WINDOWS = ((-1000.0, 1000.0),)


class BrightnessModel:
    """Opens the patches brighter than bone where asked for metal, and none for anything else."""

    def __init__(self):
        self.preprocessing = Preprocessing(
            windows=WINDOWS,
            volume=GRID,
            patch=PATCH,
            grid=PATCHES,
            convert=ConvertConfig(min_slices=8).model_dump(mode="json"),
            resample=ResampleConfig(spacing_mm=SPACING_MM, grid=GRID).model_dump(mode="json"),
        )
        self.calibration = Calibration(score_scale=4.0, score_bias=-1.0, mask_offset=0.0)
        self.label_prompts = {"metal": {"present": "There is metal.", "absent": "There is no metal."}}
        self.config = SimpleNamespace(model=SimpleNamespace(null_weight=0.5))
        self.device = torch.device("cpu")

    def encode_text(self, sentences):
        return list(sentences)

    def encode_volume(self, volume_BCZYX):
        return torch.nn.functional.avg_pool3d(volume_BCZYX, PATCH).flatten(1)

    def score(self, tokens_BP, queries, weight_BP):
        logits = []
        for sentence in queries:
            asked = "metal" in sentence and " no " not in sentence
            logits.append((40 * (tokens_BP - 0.7)).clamp(-8, 8) if asked else torch.full_like(tokens_BP, -9.0))
        logits_TBP = torch.stack(logits)
        mass_TB = (weight_BP * torch.sigmoid(logits_TBP)).sum(-1)
        return Alignment(
            score_TB=mass_TB / (1 + mass_TB), gate_logits_TBP=logits_TBP, gate_mass_TB=mass_TB, bias=torch.tensor(0.0)
        )


def chest_with_metal():
    """HU (24, 48, 64) and the lesion, which fills whole patches of the model's grid off every middle."""
    hu = chest_between_neck_and_belly_hu()
    lesion = np.zeros(hu.shape, bool)
    lesion[8:12, 12:20, 40:48] = True
    hu[lesion] = LESION_HU
    return hu, lesion


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    hu, lesion = chest_with_metal()
    folder = tmp_path_factory.mktemp("study") / "dicom"
    files = write_ct_series(folder, hu_ZYX=hu, spacing_mm=SPACING_MM, origin_mm=(-94.5, -70.5, -100.0))
    return folder, lesion, files


@pytest.fixture(scope="module")
def predicted(series):
    return predict(BrightnessModel(), series[0], ["metal", "a pleural effusion"])


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_a_finding_that_is_there_opens_its_mask_on_the_scans_own_voxels(predicted, series):
    metal, effusion = predicted.replies
    assert metal.present and metal.mask_ZYX.shape == predicted.scan.original_ZYX.shape
    truth = predicted.scan.original_ZYX == LESION_HU
    assert truth.sum() == series[1].sum()
    assert dice(metal.mask_ZYX, truth) > 0.75
    assert truth[metal.peak_zyx]
    box = np.array(metal.boxes[0]).reshape(3, 2)
    places = np.argwhere(truth)
    assert np.abs(box[:, 0] - places.min(axis=0)).max() <= 2 and np.abs(box[:, 1] - 1 - places.max(axis=0)).max() <= 2
    assert not effusion.present and not effusion.mask_ZYX.any() and effusion.boxes == ()


def test_the_peak_is_told_in_millimetres_of_the_patient(predicted, series):
    metal = predicted.replies[0]
    slices = [pydicom.dcmread(file) for file in series[2]]
    z, y, x = np.argwhere(series[1]).mean(axis=0)
    position = [float(v) for v in slices[round(z)].ImagePositionPatient]
    lps = np.array([position[0] + x * SPACING_MM[2], position[1] + y * SPACING_MM[1], position[2]])
    assert np.abs(np.array(metal.peak_mm) - lps * (-1, -1, 1)).max() < 20


def test_the_files_hold_the_same_mask_and_the_seg_lies_on_its_series(predicted, series, tmp_path):
    told = write_prediction(predicted, tmp_path / "out")
    row = told["replies"][0]
    mask, affine = read_nifti(tmp_path / "out" / row["mask"])
    assert (mask.astype(bool) == predicted.replies[0].mask_ZYX).all()
    seg = pydicom.dcmread(tmp_path / "out" / told["dicom_seg"])
    assert seg.Modality == "SEG" and [one.SegmentLabel for one in seg.SegmentSequence] == ["metal"]
    by_uid = {pydicom.dcmread(file).SOPInstanceUID: number for number, file in enumerate(series[2])}
    on_slices = np.zeros(series[1].shape, bool)
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        on_slices[by_uid[source]] = frame.astype(bool)
    # NIfTI and slices may run in other directions; in the patient both masks must be one.
    world = np.sort(voxel_to_world(affine, np.argwhere(mask)).round(3), axis=0)
    slices = [pydicom.dcmread(file) for file in series[2]]
    corners = np.array([[float(value) for value in one.ImagePositionPatient] for one in slices])
    z, y, x = np.argwhere(on_slices).T
    lps = corners[z]
    lps[:, 0] += x * SPACING_MM[2]
    lps[:, 1] += y * SPACING_MM[1]
    assert np.allclose(world, np.sort((lps * (-1, -1, 1)).round(3), axis=0), atol=1e-2)
    assert dice(on_slices, series[1]) > 0.75
    assert seg.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert seg.StudyInstanceUID == slices[0].StudyInstanceUID


def test_highdicom_reads_the_seg_back(predicted, series, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    told = write_prediction(predicted, tmp_path / "out")
    seg = highdicom.seg.segread(tmp_path / "out" / told["dicom_seg"])
    volume = seg.get_volume(combine_segments=False)
    assert volume.array[..., 0].sum() == predicted.replies[0].mask_ZYX.sum()


@pytest.mark.skipif(shutil.which("dcmftest") is None, reason="needs dcmtk (Debian: apt-get install dcmtk)")
def test_dcmtk_reads_the_seg_without_a_warning_and_keeps_every_bit(predicted, tmp_path):
    told = write_prediction(predicted, tmp_path / "out")
    file, again = str(tmp_path / "out" / told["dicom_seg"]), str(tmp_path / "again.dcm")
    assert subprocess.run(["dcmftest", file], capture_output=True, text=True, check=True).stdout.startswith("yes")
    for command in (["dcmdump", "--quiet", file], ["dcmdump", "--print-all", file], ["dcmconv", "+te", file, again]):
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not [line for line in run.stderr.splitlines() if line.startswith(("W:", "E:"))], command
    np.testing.assert_array_equal(pydicom.dcmread(again).pixel_array, pydicom.dcmread(file).pixel_array)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools (Debian: apt-get install dicom3tools)")
def test_dciodvfy_finds_no_error_in_the_seg_that_its_source_does_not_have(predicted, series, tmp_path):
    told = write_prediction(predicted, tmp_path / "out")

    def errors(file):
        run = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        return {line for line in run.stderr.splitlines() if line.startswith("Error")}

    assert not errors(tmp_path / "out" / told["dicom_seg"]) - errors(series[2][0])


def test_a_nifti_of_the_same_scan_gives_the_same_answer_whatever_its_axes(series, tmp_path):
    scan = read_scan(series[0], BrightnessModel().preprocessing)
    turned = scan.original_ZYX[:, :, ::-1]
    affine = scan.original_affine.copy()
    affine[:, 0] *= -1
    affine[:3, 3] += scan.original_affine[:3, 0] * (turned.shape[2] - 1)
    write_nifti(tmp_path / "turned.nii", np.ascontiguousarray(turned), affine)
    reply = predict(BrightnessModel(), tmp_path / "turned.nii", ["metal"]).replies[0]
    expected = predict(BrightnessModel(), series[0], ["metal"]).replies[0].mask_ZYX[:, :, ::-1]
    assert (reply.mask_ZYX == expected).all()


def test_nothing_but_the_seg_holds_what_the_headers_say(predicted, tmp_path):
    told = write_prediction(predicted, tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        named = b"Quillfeather" in content or b"MRN4471902" in content or b"20210314" in content
        assert named == (file.name == told["dicom_seg"]), file.name
    write_prediction(predicted, tmp_path / "without", dicom_seg=False)
    assert not list((tmp_path / "without").glob("*.dcm"))


def test_pictures_are_drawn_for_every_query(predicted, tmp_path):
    told = write_prediction(predicted, tmp_path / "out")
    for row in told["replies"]:
        assert (tmp_path / "out" / row["picture"]).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["replies"][0]["mask_ml"] > 0


def test_a_study_that_is_no_chest_is_refused_with_the_reason(tmp_path):
    head = np.full((24, 48, 64), -1000, np.int16)
    head[:, 8:40, 8:56] = 40
    write_ct_series(tmp_path / "head", hu_ZYX=head, spacing_mm=SPACING_MM)
    with pytest.raises(Quarantine, match="little_lung"):
        predict(BrightnessModel(), tmp_path / "head", ["metal"])


def test_what_the_model_was_not_trained_on_is_refused_in_words(tmp_path, series):
    model = BrightnessModel()
    (tmp_path / "film.png").write_bytes(b"")
    with pytest.raises(InputError, match="trained on CT"):
        predict(model, tmp_path / "film.png", ["metal"])
    with pytest.raises(InputError, match="no such file"):
        predict(model, tmp_path / "absent", ["metal"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM file"):
        predict(model, tmp_path / "empty", ["metal"])
    report = write_dataset(tmp_path / "report" / "sr.dcm", pydicom.dcmread(series[2][0]))
    with pytest.raises(Quarantine, match="one_slice"):
        predict(model, report.parent, ["metal"])


def test_a_lost_slice_is_refused_and_never_closed_up(series, tmp_path):
    import shutil

    shutil.copytree(series[0], tmp_path / "gap")
    sorted((tmp_path / "gap").iterdir())[10].unlink()
    with pytest.raises(Quarantine, match="missing_slice"):
        predict(BrightnessModel(), tmp_path / "gap", ["metal"])


@pytest.mark.parametrize(
    ("query", "denial"),
    [
        ("small right pleural effusion", "There is no small right pleural effusion."),
        ("There is a nodule.", "There is no nodule."),
        ("Mass in the left upper lobe.", "There is no mass in the left upper lobe."),
        ("CT angiogram sign", "There is no CT angiogram sign."),
    ],
)
def test_a_query_is_denied_in_its_own_words(query, denial):
    assert sentences_of(query, {}) == (query, denial)


def test_a_finding_of_training_is_asked_as_in_training():
    prompts = BrightnessModel().label_prompts | {"pleural_effusion": {"present": "p", "absent": "a"}}
    assert sentences_of("Pleural effusion", prompts) == ("p", "a")


def test_queries_come_from_the_line_and_the_file(tmp_path):
    (tmp_path / "q.txt").write_text("# chest\n\nleft mass\n  right mass \n")
    assert read_queries(["metal"], tmp_path / "q.txt") == ["metal", "left mass", "right mass"]
    with pytest.raises(InputError, match="nothing is asked"):
        read_queries([], None)
    with pytest.raises(InputError, match="empty"):
        check_queries(["  "])
    with pytest.raises(InputError, match="500 at most"):
        check_queries(["x" * 501])


def test_the_command_needs_a_checkpoint_and_says_so(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "--query", "mass", "--model", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
