"""The page of a shard: what it shows, what it doubts, what it keeps to itself."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from glint.cli.__main__ import main
from glint.formats.image import write_film
from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.nifti import read_nifti, write_nifti
from glint.prepare.qc import study_sheet, write_page
from glint.prepare.qc.doubts import cut_lungs, doubts
from glint.prepare.qc.look import film, three_planes
from glint.prepare.resample import resample_volume

GRID, SPACING, WHOLE = (40, 44, 48), (4.0, 4.0, 4.0), (0, 40, 0, 44, 0, 48)
SCAN = {"scan_shape_zyx": (60, 512, 512), "scan_spacing_mm": (2.0, 0.7, 0.7), "clip_high_hu": 3071}


def chest(lung_z: tuple[int, int] = (6, 34)) -> np.ndarray:
    """A block of tissue in air with two lungs."""
    hu = np.full(GRID, -1000, np.int16)
    hu[:, 6:38, 4:44] = 40
    for start in (8, 26):
        hu[lung_z[0] : lung_z[1], 10:32, start : start + 14] = -850
    return hu


def test_a_whole_chest_raises_no_doubt():
    assert doubts(chest(), SPACING, WHOLE, **SCAN) == []


@pytest.mark.parametrize(
    ("volume", "box", "given", "sentence"),
    [
        (chest((0, 34)), WHOLE, {}, r"the grid cuts the lungs \(inferior, 99 cm²\)"),
        (chest((6, 40)), WHOLE, {}, r"the grid cuts the lungs \(superior"),
        (chest((6, 34)), (10, 40, 0, 44, 0, 48), {}, r"the lungs reach the scan's end \(inferior"),
        (chest((20, 21)), WHOLE, {}, r"hardly any lung"),
        (chest(), WHOLE, {"scan_shape_zyx": (24, 512, 512)}, r"few slices \(24\)"),
        (chest(), WHOLE, {"scan_spacing_mm": (5.0, 0.7, 0.8)}, r"anisotropic \(5.0 mm slices of 0.70 mm"),
        (np.where(np.arange(40)[:, None, None] == 20, 3071, chest()), WHOLE, {}, r"metal clipped at 3071 HU"),
        (chest(), (12, 30, 0, 44, 0, 48), {}, r"55 % of the grid is padding"),
    ],
)
def test_each_doubt_is_told(volume, box, given, sentence):
    assert re.search(sentence, "; ".join(doubts(volume, SPACING, box, **SCAN | given)))


def test_the_thin_rim_of_the_skin_and_a_grazed_table_are_no_lung():
    hu = chest()
    hu[0, 6:38, 4:6] = -700
    hu[:, :2, 8:40] = -850
    assert cut_lungs(hu, SPACING, WHOLE) == []


def test_noisy_air_around_a_body_without_lungs_is_no_lung():
    hu = np.where(chest() < -800, 40, chest()).astype(np.int16)
    hu[:, :6] = hu[..., :4] = hu[:, 38:] = hu[..., 44:] = -1000
    hu[hu == -1000] += np.random.default_rng(0).integers(-60, 61, int((hu == -1000).sum()), np.int16)
    assert doubts(hu, SPACING, WHOLE, **SCAN) == ["hardly any lung (0.0 % of the body)"]


def test_the_real_abdomen_is_told_as_one_and_by_the_lungs_that_its_top_slices_cut(real_data):
    hu, affine = read_nifti(real_data / "6_ct_nifti_masks/totalsegmentator_example/example_ct.nii.gz")
    made = resample_volume(hu, affine, spacing_mm=(3, 1.5, 1.5), grid=(160, 224, 224))
    found = doubts(made.volume_ZYX, (3, 1.5, 1.5), made.valid_box, **SCAN)
    assert [sentence.split(" (")[0] for sentence in found] == ["the lungs reach the scan's end", "hardly any lung"]
    middle = resample_volume(hu, affine, spacing_mm=(4, 4, 4), grid=(56, 56, 72))  # below the lungs
    assert [sentence.split(" (")[0] for sentence in doubts(middle.volume_ZYX, (4, 4, 4), middle.valid_box, **SCAN)] == [
        "hardly any lung"
    ]


def test_a_mattress_of_foam_is_no_lung_on_any_face():
    hu = chest()
    hu[:, :4, :] = -860
    assert cut_lungs(hu, SPACING, WHOLE) == []


def test_the_real_whole_chest_shows_no_cut_lung_though_its_table_has_lungs_hu(real_data):
    nrrd = pytest.importorskip("nrrd")
    hu, header = nrrd.read(str(real_data / "6_ct_nifti_masks/cip_ct64/ct-64.nrrd"))
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([*header["space directions"], header["space origin"]])
    made = resample_volume(hu.T, affine, spacing_mm=(3, 3, 3), grid=(128, 128, 128))
    assert cut_lungs(made.volume_ZYX, (3, 3, 3), made.valid_box) == []
    z0, z1, *rest = made.valid_box
    middle = (z0 + 40, z1, *rest)  # a scan that starts in the lungs
    assert [sentence.split(",")[0] for sentence in cut_lungs(made.volume_ZYX, (3, 3, 3), middle)] == [
        "the lungs reach the scan's end (inferior"
    ]


def test_planes_hang_as_a_radiologist_hangs_them():
    hu = np.full((20, 20, 20), -1350, np.int16)
    hu[:, :, 10:] = 150  # the patient's right half is bright
    hu[15:, 15:, :10] = 150  # and the front and top of the left half
    picture = three_planes(hu, (2.0, 1.0, 1.0), (0, 20, 0, 20, 0, 20))
    axial, coronal, sagittal = picture[:220, :220], picture[:220, 224:334], picture[:220, 338:448]
    assert coronal.shape == sagittal.shape == (220, 110)  # 40 mm high, 20 mm wide: true proportions
    assert (axial[:, :105] > 250).all() and (axial[:, 115:] < 5).all()
    assert (coronal[:, :50] > 250).all()
    assert (sagittal > 250).all()


def test_a_film_is_shown_whole_between_its_percentiles():
    image = np.random.default_rng(0).integers(1000, 2000, (300, 200)).astype(np.uint16)
    image[0, 0] = 65535
    shown = film(image)
    assert shown.shape == (440, 293)
    assert 100 < shown.mean() < 155


def workspace(folder, volumes: dict[str, np.ndarray | None]):
    rows, series = [], []
    affine = np.diag([4.0, 4, 4, 1])
    for study_id, hu in volumes.items():
        common = {"study_id": study_id, "patient_id": "p1", "input_digest": "0", "params_digest": "0"}
        if hu is None:
            rows.append(common | {"status": "quarantined", "reason": "gantry_tilt"})
            continue
        path = f"volumes/{study_id}.nii"
        write_nifti(folder / "results/ct/04_resample/shard_0000" / path, hu, affine)
        box = {"series_id": "r1", "path": path, "affine": affine.ravel().tolist(), "valid_box": list(WHOLE)}
        rows.append(common | {"status": "ok"} | box)
        scan = {"series_id": "r1", "shape_zyx": [24, 512, 512], "spacing_mm": [5.0, 0.8, 0.8], "path": "x.nii"}
        series.append(common | {"status": "ok"} | scan)
    for stage, name, made in (("04_resample", "resample", rows), ("03_convert", "convert", series)):
        out = folder / "results/ct" / stage / "shard_0000" / "manifest.parquet"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(out, manifest_frame(made, name), name)


def test_the_page_stands_by_itself_and_shows_every_study_once(tmp_path, capsys):
    workspace(tmp_path, {"s_good": chest(), "s_cut": chest((0, 34)), "s_refused": None})
    assert main(["qc", "--directory", str(tmp_path), "--workers", "1"]) == 0
    page = (tmp_path / "logs/ct/qc/shard_0000.html").read_text(encoding="utf-8")
    assert [page.count(f"<h2>{study}</h2>") for study in ("s_good", "s_cut", "s_refused")] == [1, 1, 1]
    assert "quarantined: gantry_tilt" in page
    assert "few slices (24)" in page and "the grid cuts the lungs (inferior" in page
    assert "scan 24 × 512 × 512 of 5.00 × 0.80 × 0.80 mm" in page
    assert not re.search(r"https?://|<script|src=\"(?!data:)", page)
    assert str(tmp_path) not in page and "p1" not in re.sub(r"base64,[^\"]*", "", page)
    pictures = re.findall(r"base64,([^\"]+)", page)
    assert len(pictures) == 2
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size[1] == 444
    assert "2 want a look" in capsys.readouterr().out


def test_a_damaged_volume_is_one_sheet_and_an_absent_shard_one_line(tmp_path, capsys):
    workspace(tmp_path, {"s1": chest()})
    volume = tmp_path / "results/ct/04_resample/shard_0000/volumes/s1.nii"
    volume.write_bytes(volume.read_bytes()[:200])
    row = {"study_id": "s1", "status": "ok", "path": "volumes/s1.nii", "valid_box": None}
    assert study_sheet(row, folder=volume.parents[1], clip_high_hu=3071).status == "unreadable"
    assert main(["qc", "--directory", str(tmp_path), "--shard", "other"]) == 1
    assert "no shard other; there is: shard_0000" in capsys.readouterr().err


def test_a_shard_of_films_has_a_page_with_view_spacing_and_the_film(tmp_path):
    rows = [
        {"study_id": "s1", "status": "ok", "path": "films/s1.png", "view": "PA", "to_original": [1.0] * 9,
         "valid_box": [0, 40, 10, 30], "spacing_mm_yx": [0.4, 0.4]},
        {"study_id": "s2", "status": "quarantined", "reason": "blank_film"},
    ]  # fmt: skip
    write_film(tmp_path / "films" / "s1.png", (np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40))
    write_manifest(tmp_path / "manifest.parquet", manifest_frame(rows, "resample_films"), "resample_films")
    assert write_page(tmp_path / "manifest.parquet", tmp_path / "page.html") == (2, 0)
    page = (tmp_path / "page.html").read_text()
    for said in ("40 × 20 pixels on a grid of 40 × 40", "0.400 × 0.400 mm", "view PA", "blank_film", "data:image/png"):
        assert said in page
