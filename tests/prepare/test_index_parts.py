"""A series that is really several becomes several: each with its own identifier, its own UID after stage 02, its own verdict."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, write_ct_series
from test_index import PSEUDONYMS, inventory, verdict

from glint.cli.__main__ import main
from glint.core.ids import part_uid


def write_mixed(folder: Path, *, first: dict[str, Any], second: dict[str, Any], **common: Any) -> None:
    """Two stacks under one Series Instance UID."""
    write_ct_series(folder, prefix="A", **common | first)
    uids = iter(range(500, 999))
    write_ct_series(
        folder,
        prefix="B",
        edit=lambda dataset, index: setattr(dataset, "SOPInstanceUID", f"{ROOT}.3.1.1.{next(uids)}"),
        **common | second,
    )


SHIFTED = {"origin_mm": (-14.4, -9.6, -99.0)}  # among the slices of the first stack, none at a place of one
MIXED = {
    "kernel": ({}, {"ConvolutionKernel": "B70f"}),
    "size": ({}, {"rows": 16}),
    "spacing": ({}, {"spacing_mm": (2.0, 0.5, 0.5)}),
    "acquisition number, among each other": ({}, {"AcquisitionNumber": "2", **SHIFTED}),
    "acquisition number, same places": ({}, {"AcquisitionNumber": "2"}),
    "temporal position": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    "thickness": ({}, {"SliceThickness": "5.0", **SHIFTED}),
    "image type": ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "VMI 40KEV"]}),
    "time of the pass": ({"AcquisitionTime": "101500"}, {"AcquisitionTime": "101530"}),
}


@pytest.mark.parametrize(("first", "second"), MIXED.values(), ids=MIXED)
def test_two_stacks_in_one_series_are_two_series(tmp_path: Path, first: Any, second: Any) -> None:
    # other pixels at the same places, or they would be copies
    second = {"RescaleIntercept": "-1024"} | second
    write_mixed(tmp_path, first=first, second=second)
    series = inventory(tmp_path).series
    assert series.select("kind", "reason", "num_instances").rows() == [("volume", None, 8)] * 2
    assert series["series_id"].n_unique() == 2 and series["part"].n_unique() == 2
    assert PSEUDONYMS.series_id(f"{ROOT}.2.1.1") not in series["series_id"]


def test_an_axial_and_a_coronal_stack_are_told_apart_and_the_coronal_one_is_a_reformat(tmp_path: Path) -> None:
    write_mixed(tmp_path, first={}, second={"orientation": (1, 0, 0, 0, 0, -1)})
    series = inventory(tmp_path).series.sort("kind")
    assert series.select("kind", "reason").rows() == [("reformat", "reformat"), ("volume", None)]


def test_step_and_shoot_with_an_acquisition_per_table_position_stays_one_series(tmp_path: Path) -> None:
    write_ct_series(tmp_path, edit=lambda dataset, index: setattr(dataset, "AcquisitionNumber", str(index // 2)))
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    assert found.series["part"].to_list() == [""]


def test_positions_rounded_by_a_writer_split_nothing(tmp_path: Path) -> None:
    def edit(dataset: Any, index: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0.0004 * (index % 2)]
        dataset.PixelSpacing = [0.8, 0.9 if index % 2 else 0.90004]

    write_ct_series(tmp_path, edit=edit)
    assert inventory(tmp_path).series.height == 1


def test_an_image_sent_twice_under_two_uids_is_kept_once(tmp_path: Path) -> None:
    write_mixed(tmp_path, first={}, second={})
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    assert found.quarantine["reason"].to_list() == ["duplicate_image"] * 8


def test_a_part_that_is_cut_off_leaves_the_other_usable(tmp_path: Path) -> None:
    write_mixed(tmp_path, first={}, second={"ConvolutionKernel": "B70f"})
    file = tmp_path / "B0003"
    file.write_bytes(file.read_bytes()[:-100])
    assert sorted(inventory(tmp_path).series["reason"].to_list(), key=str) == [None, "truncated"]


def test_a_scout_leaves_the_larger_part_and_is_counted_once(tmp_path: Path) -> None:
    write_mixed(tmp_path, first={}, second={"ConvolutionKernel": "B70f", "num_slices": 5})
    write_ct_series(
        tmp_path,
        prefix="S",
        num_slices=1,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        SOPInstanceUID=f"{ROOT}.3.9.9",
    )
    found = inventory(tmp_path)
    assert sorted(found.series["num_instances"]) == [5, 8]
    assert found.quarantine.select("level", "reason").rows() == [("instance", "localizer")]
    assert found.instances.height == 14


def test_parts_keep_their_identifiers_whatever_the_files_are_called(tmp_path: Path) -> None:
    write_mixed(tmp_path / "a", first={}, second={"ConvolutionKernel": "B70f"})
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    others = random.Random(3).sample(names, len(names))
    (tmp_path / "b").mkdir()
    for name, other in zip(names, others, strict=True):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b" / other)
    columns = ["series_id", "part", "kernel", "num_instances"]
    assert inventory(tmp_path / "a").series.select(columns).equals(inventory(tmp_path / "b").series.select(columns))
    assert part_uid("1.2", "") == "1.2" and part_uid("1.2", "kernel=a") != part_uid("1.2", "kernel=b")


def test_stage_02_gives_every_part_a_series_uid_and_a_folder_of_its_own(tmp_path: Path) -> None:
    write_mixed(tmp_path / "raw", first={}, second={"ConvolutionKernel": "B70f"})
    key, index, out = tmp_path / "key", tmp_path / "index", tmp_path / "out" / "manifest.parquet"
    config = json.dumps({"num_shards": 1})
    common = ["--key-file", str(key)]
    raw = str(tmp_path / "raw")
    assert (
        main(["index", "images", "--raw", raw, "--out", str(index), *common, "--create-key", "--config", config]) == 0
    )
    assert main(["deidentify", "images", "--index", str(index / "shard-000"), "--out", str(out), *common]) == 0
    manifest = pl.read_parquet(out)
    assert manifest["status"].to_list() == ["ok", "ok"]
    written = {}
    for row in manifest.iter_rows(named=True):
        files = list((out.parent / row["path"]).glob("*.dcm"))
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        written[row["series_id"]] = {(str(header.SeriesInstanceUID), header.ConvolutionKernel) for header in headers}
        assert len(headers) == 8 and len(written[row["series_id"]]) == 1
    uids = {uid for found in written.values() for uid, _ in found}
    assert len(uids) == 2 and all(uid.startswith("2.25.") for uid in uids)
