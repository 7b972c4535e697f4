"""A series with one fault never becomes a finished-looking volume."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builder import chest_between_neck_and_belly_hu, write_ct_series
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.prepare.convert import read_series
from glint.prepare.convert.slice_order import coarse_slices

Datasets = list[pydicom.Dataset]


@pytest.fixture(scope="module")
def real_chest(real_data: Path) -> Path:
    return real_data / "1_ct_dicom/cip_ct64/ct-64Dicom"


@pytest.fixture(scope="module")
def built_chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chest")
    for file in write_ct_series(folder, hu_ZYX=chest_between_neck_and_belly_hu()):
        file.rename(file.with_name(file.name + ".dcm"))
    return folder


@pytest.fixture(params=["built_chest", "real_chest"])
def slices(request: pytest.FixtureRequest) -> Datasets:
    """Slices in order of position."""
    datasets = [pydicom.dcmread(file) for file in sorted(request.getfixturevalue(request.param).glob("*.dcm"))]
    return sorted(datasets, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def write(slices: Datasets, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, dataset in enumerate(slices):
        dataset.save_as(folder / f"{number:04d}.dcm")
    return folder


def exchange(slices: Datasets, keyword: str, first: int, second: int) -> None:
    values = [slices[place][keyword].value for place in (first, second)]
    slices[first][keyword].value, slices[second][keyword].value = values[::-1]


def exchanged(*keywords: str, apart: int = 1) -> Callable[[Datasets], None]:
    def spoil(slices: Datasets) -> None:
        for keyword in keywords:
            exchange(slices, keyword, 9, 9 + apart)

    return spoil


def remove_one(slices: Datasets) -> None:
    del slices[11]


def copy_one(slices: Datasets) -> None:
    slices.append(slices[11])


def repeat_pixels(slices: Datasets) -> None:
    slices[11].PixelData = slices[12].PixelData


def take_from_another_patient(slices: Datasets) -> None:
    slices[11].PatientID = "another"


def take_pixels_of_another_body(slices: Datasets) -> None:
    """Every header element is right: only the pixels are not of this place."""
    mirrored = np.frombuffer(slices[11].PixelData, "<u2").reshape(slices[11].Rows, -1)[::-1, ::-1]
    slices[11].PixelData = mirrored.tobytes()


def mirror_the_last(slices: Datasets) -> None:
    """The last slice has one neighbour to tell by."""
    last = slices[-1]
    last.PixelData = np.frombuffer(last.PixelData, "<u2").reshape(last.Rows, -1)[::-1, ::-1].tobytes()


def blank(slices: Datasets) -> None:
    slices[11].PixelData = bytes(len(slices[11].PixelData))


FAULTS = {
    "removed": (remove_one, {"missing_slice"}),
    "copied": (copy_one, {"duplicate_position"}),
    "pixels repeated": (repeat_pixels, {"repeated_slice"}),
    "positions exchanged": (exchanged("ImagePositionPatient"), {"slices_exchanged"}),
    "positions far apart exchanged": (
        exchanged("ImagePositionPatient", apart=5),
        {"slices_exchanged", "strange_slice"},
    ),
    "pixels exchanged": (exchanged("PixelData"), {"slices_exchanged"}),
    "positions and numbers exchanged": (exchanged("ImagePositionPatient", "InstanceNumber"), {"slices_exchanged"}),
    "another patient": (take_from_another_patient, {"mixed_patients"}),
    "another body under the same name": (take_pixels_of_another_body, {"strange_slice"}),
    "last slice mirrored": (mirror_the_last, {"strange_slice"}),
    "blank": (blank, {"strange_slice", "hu_implausible"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_with_one_fault_is_refused_with_its_reason(slices, tmp_path, fault):
    spoil, reasons = FAULTS[fault]
    spoil(slices)
    with pytest.raises(Quarantine) as refusal:
        read_series(write(slices, tmp_path / "series"), ConvertConfig())
    assert refusal.value.reason in reasons
    assert refusal.value.detail and "\n" not in refusal.value.detail


def test_exchanged_instance_numbers_alone_change_nothing(slices, tmp_path):
    whole = read_series(write(slices, tmp_path / "whole"), ConvertConfig())
    exchange(slices, "InstanceNumber", 9, 10)
    numbered = read_series(write(slices, tmp_path / "numbered"), ConvertConfig())
    np.testing.assert_array_equal(numbered.hu_ZYX, whole.hu_ZYX)
    np.testing.assert_array_equal(numbered.affine, whole.affine)


def test_where_pixels_are_silent_numbers_against_positions_are_enough_to_refuse(tmp_path):
    noise = np.random.default_rng(5).normal(0, 120, (24, 48, 64))
    silent = np.broadcast_to(chest_between_neck_and_belly_hu()[12], (24, 48, 64)) + noise
    hu = np.clip(np.rint(silent), -1024, 3000).astype(np.int16)
    for file in write_ct_series(tmp_path / "right", hu_ZYX=hu):
        file.rename(file.with_suffix(".dcm"))
    assert read_series(tmp_path / "right", ConvertConfig()).hu_ZYX.shape == hu.shape
    datasets = [pydicom.dcmread(file) for file in sorted((tmp_path / "right").glob("*.dcm"))]
    exchange(datasets, "InstanceNumber", 9, 10)
    with pytest.raises(Quarantine, match="slices_exchanged"):
        read_series(write(datasets, tmp_path / "wrong"), ConvertConfig())


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize(
    ("rows", "columns", "edge"), [(70, 133, 2), (1056, 1090, 33)], ids=["narrow sums", "wide sums"]
)
def test_block_means_are_those_of_the_values_within_the_seen_range(kind, rows, columns, edge):
    hu = np.random.default_rng(1).integers(-1500, 900, (2, rows, columns)).astype(kind)
    blocks = rows // edge, columns // edge
    seen = hu.astype(float).clip(-1024, 400)[:, : blocks[0] * edge, : blocks[1] * edge]
    means = seen.reshape(2, blocks[0], edge, blocks[1], edge).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse_slices(hu), means, atol=1e-2)


def test_every_pair_of_neighbours_exchanged_is_seen_and_none_where_none_was(slices, tmp_path):
    from scipy.spatial.distance import pdist, squareform

    from glint.prepare.convert.slice_order import reversal_gain, strangeness

    volume = read_series(write(slices, tmp_path / "series"), ConvertConfig()).hu_ZYX
    limit = ConvertConfig().max_slice_surprise

    def surprise(hu: np.ndarray) -> float:
        coarse = coarse_slices(hu)
        distances = squareform(pdist(coarse.reshape(len(coarse), -1), "cityblock")) / coarse[0].size
        return float(max(strangeness(distances).max(), reversal_gain(distances).max()))

    assert surprise(volume) < 0.9
    for place in range(len(volume) - 1):
        swapped = volume.copy()
        swapped[[place, place + 1]] = volume[[place + 1, place]]
        assert surprise(swapped) > limit, place


@pytest.mark.parametrize(
    "syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian]
)
def test_a_file_cut_off_anywhere_never_becomes_a_volume(built_chest, tmp_path, syntax):
    shutil.copytree(built_chest, tmp_path / "series")
    victim = tmp_path / "series" / "IM0012.dcm"
    dataset = pydicom.dcmread(victim)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(victim)
    content = victim.read_bytes()
    for end in np.random.default_rng(3).integers(1, len(content) - 16, 20):
        victim.write_bytes(content[:end])
        with pytest.raises(Quarantine) as refusal:
            read_series(tmp_path / "series", ConvertConfig())
        assert refusal.value.reason in {
            "unreadable_header",
            "unreadable_pixels",
            "missing_geometry",
            "rescale_absent",
            "mixed_patients",
            "mixed_series",
            "converter_disagrees",
            "strange_slice",
        }
