"""Films as DICOM, and the road that they take, for the tests of every stage."""

import json
from pathlib import Path

import numpy as np
from dicom_builder import ct_dataset
from pydicom.dataset import Dataset

from glint.cli.__main__ import main

DX = "1.2.840.10008.5.1.4.1.1.1.1"
ROWS, COLUMNS = 48, 64


def ramp() -> np.ndarray:
    """Stored values 0..4095 in which every pixel differs."""
    return np.linspace(0, 4095, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)


def film_dataset(stored_YX: np.ndarray, **elements: object) -> Dataset:
    values = {
        "SOPClassUID": DX,
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.999.7",
        "Modality": "DX",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Rows": stored_YX.shape[0],
        "Columns": stored_YX.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": stored_YX.astype("<u2").tobytes(),
        "ConvolutionKernel": None,
        "SliceThickness": None,
    }
    dataset = ct_dataset(**(values | elements))
    dataset["PixelData"].VR = "OW"
    return dataset


CAPTURES = {"accept_secondary_capture": True}


def road(folder: Path, sources: list[Path], index: dict[str, object]) -> dict[str, Path]:
    """Run the four stages on copies of `sources`; returns the manifests by stage."""
    raw, key = folder / "raw", folder / "key"
    raw.mkdir(parents=True)
    key.write_text(bytes(range(32)).hex())
    key.chmod(0o600)
    for number, source in enumerate(sources):
        (raw / f"{number}-{source.name}").write_bytes(source.read_bytes())
    config = ["--modality", "cxr", "--config", json.dumps({"raw_dirs": [str(raw)], "num_shards": 1, **index})]
    images = folder / "index"
    made = {name: folder / name / "manifest.parquet" for name in ("deidentify", "convert", "resample")}
    shard = ["--index", str(images / "shard-000"), "--out", str(made["deidentify"]), "--key-file", str(key)]
    assert main(["index", "images", "--out", str(images), "--key-file", str(key), *config]) == 0
    assert main(["deidentify", "images", "--raw", str(raw), *shard]) == 0
    for stage, before in (("convert", "deidentify"), ("resample", "convert")):
        arguments = ["--manifest", str(made[before]), "--out", str(made[stage])]
        assert main([stage, "--modality", "cxr", *arguments]) == 0
    return made
