"""Masks reach the model's grid at their place, and no identifier comes with them."""

import gzip
import json

import numpy as np
import pytest
from evaluation_cohort import AFFINE, FINDINGS, GRID, KEY, SHAPE, frame_text, uid, write_cohort

from glint.cli.__main__ import main
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.evaluation.maps import patch_fractions
from glint.evaluation.truth import make_truth, read_bits, read_finding_names, read_truth
from glint.formats.manifest import read_manifest
from glint.formats.nifti import write_nifti


@pytest.fixture
def inputs(tmp_path):
    return write_cohort(tmp_path, studies=8)


def rebuild(inputs, **changes):
    root = inputs.split.parents[1]
    arguments = {
        "truth_dir": root / "restricted" / "truth",
        "pseudonyms": Pseudonyms(KEY),
        "resampled": inputs.resampled,
        "split": inputs.split,
        "out_path": inputs.truth,
    }
    make_truth(**arguments | changes)


def test_every_study_gets_its_own_masks_under_its_pseudonym(inputs):
    frame, findings = read_truth(inputs.truth)
    assert findings == tuple(FINDINGS)
    by_study = {row["study_id"]: row for row in frame.to_dicts()}
    for number in range(8):
        row = by_study[Pseudonyms(KEY).study_id(uid(number))]
        expected = [finding for bit, finding in enumerate(FINDINGS) if (number + bit) % 3 == 0]
        assert row["findings"] == expected
        assert all(count == 8**3 for count in row["voxels"])
        bits = read_bits(inputs.truth.parent / row["path"])
        assert bits.shape == SHAPE
        assert (bits > 0).any() == bool(expected)


def test_a_mask_of_another_grid_and_orientation_lands_on_the_same_millimetres(inputs):
    """Scan voxels of 2 mm, LPS order: the box of world millimetres is found again voxel by voxel."""
    root = inputs.split.parents[1]
    fine = np.diag([-2.0, -2.0, 2.0, 1.0])
    fine[:3, 3] = (126.5, 94.5, -0.5)
    bits = np.zeros((48, 48, 64), np.uint16)
    z_mm = -0.5 + 2 * np.arange(48)[:, None, None]
    y_mm, x_mm = 94.5 - 2 * np.arange(48)[None, :, None], 126.5 - 2 * np.arange(64)[None, None, :]
    bits[(z_mm > 20) & (z_mm < 50) & (y_mm > 9) & (y_mm < 31) & (x_mm > 41) & (x_mm < 111)] = 1
    file = root / "restricted" / "truth" / f"{uid(0)}.nii.gz"
    write_nifti(file.with_name("fine.nii"), bits, fine)
    file.write_bytes(gzip.compress(file.with_name("fine.nii").read_bytes()))
    rebuild(inputs)
    moved = read_bits(inputs.truth.parent / "masks" / f"{Pseudonyms(KEY).study_id(uid(0))}.nii.gz")
    centres_mm = [np.arange(n) * AFFINE[0, 0] for n in SHAPE]
    expected = np.logical_and.outer(
        np.logical_and.outer((centres_mm[0] > 20) & (centres_mm[0] < 50), (centres_mm[1] > 9) & (centres_mm[1] < 31)),
        (centres_mm[2] > 41) & (centres_mm[2] < 111),
    )
    np.testing.assert_array_equal(moved > 0, expected)


def test_no_identifier_is_written_anywhere(inputs):
    folder = inputs.truth.parent
    names = " ".join(str(path.relative_to(folder)) for path in folder.rglob("*"))
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".gz")
    content += b"".join(gzip.decompress(path.read_bytes()) for path in folder.rglob("*.gz"))
    told = names + frame_text(inputs.truth) + content.decode("latin-1")
    assert not any(uid(number) in told for number in range(8))
    assert "MRN" not in told


def test_the_same_masks_give_the_same_bytes(inputs):
    folder = inputs.truth.parent
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rebuild(inputs)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_mask_and_an_unknown_bit_cost_their_study_only(inputs, capsys):
    truth = inputs.split.parents[1] / "restricted" / "truth"
    (truth / f"{uid(1)}.nii.gz").write_bytes(b"not an image")
    bits = np.zeros(SHAPE, np.uint16)
    bits[0, 0, 0] = 4
    write_nifti(truth / "odd.nii", bits, AFFINE)
    (truth / f"{uid(2)}.nii.gz").write_bytes(gzip.compress((truth / "odd.nii").read_bytes()))
    rebuild(inputs)
    rows = {row["study_id"]: row for row in read_manifest(inputs.truth, "evaluate_truth").to_dicts()}
    names = Pseudonyms(KEY)
    assert rows[names.study_id(uid(1))]["reason"] == "unreadable_truth"
    assert rows[names.study_id(uid(2))]["reason"] == "unknown_truth_bit"
    assert sum(row["status"] == "ok" for row in rows.values()) == 6
    assert uid(1) not in capsys.readouterr().err


def test_masks_of_thirty_two_findings_arrive_each_by_itself_and_one_more_is_refused(inputs):
    truth = inputs.split.parents[1] / "restricted" / "truth"
    names = [f"finding {place}" for place in range(32)]
    (truth / "findings.json").write_text(json.dumps(dict(enumerate(names))))
    bits = np.zeros(SHAPE, np.uint32)
    for place in (0, 15, 16, 31):
        bits[1, 2, place] = 1 << place
    write_nifti(truth / "many.nii", bits, AFFINE)
    (truth / f"{uid(0)}.nii.gz").write_bytes(gzip.compress((truth / "many.nii").read_bytes()))
    (truth / "many.nii").unlink()
    rebuild(inputs)
    frame, findings = read_truth(inputs.truth)
    row = next(row for row in frame.to_dicts() if row["study_id"] == Pseudonyms(KEY).study_id(uid(0)))
    assert row["findings"] == [names[place] for place in (0, 15, 16, 31)] and row["voxels"] == [1] * 4
    found = read_bits(inputs.truth.parent / row["path"])
    np.testing.assert_array_equal(found, bits)
    shares = patch_fractions(found, GRID, len(findings))
    assert [place for place in range(32) if shares[place].any()] == [0, 15, 16, 31]
    (truth / "findings.json").write_text(json.dumps(dict(enumerate([*names, "one more"]))))
    with pytest.raises(InputError, match=r"findings\.json: 33 findings, a mask file holds 32; .*labels alone"):
        rebuild(inputs)


def test_labels_alone_may_name_two_hundred_findings(inputs):
    truth = inputs.split.parents[1] / "restricted" / "truth"
    names = [f"f{place}" for place in range(200)]
    for file in truth.glob("*.nii.gz"):
        file.unlink()
    (truth / "findings.json").write_text(json.dumps(dict(enumerate(names))))
    rows = [",".join(["id", *names]), ",".join([uid(3), *("1" if place == 190 else "0" for place in range(200))])]
    (truth / "labels.csv").write_text("\n".join(rows))
    rebuild(inputs)
    frame, findings = read_truth(inputs.truth)
    assert frame["findings"].to_list() == [["f190"]] and len(findings) == 200


def test_masks_may_be_named_by_pseudonym(inputs):
    truth = inputs.split.parents[1] / "restricted" / "truth"
    for number in range(8):
        file = truth / f"{uid(number)}.nii.gz"
        file.rename(truth / f"{Pseudonyms(KEY).study_id(uid(number))}.nii.gz")
    rebuild(inputs, pseudonyms=None)
    assert read_truth(inputs.truth)[0].height == 8


def test_another_key_finds_no_study_and_says_what_to_check(inputs):
    with pytest.raises(InputError, match="truth_ids and the key file"):
        rebuild(inputs, pseudonyms=Pseudonyms(b"z" * 32))


@pytest.mark.parametrize("content", ["[]", "{", '{"1": "mass"}', '{"0": "mass", "1": "mass"}', "{}", '{"a": "mass"}'])
def test_a_wrong_list_of_findings_is_told_in_one_line(tmp_path, content):
    (tmp_path / "findings.json").write_text(content)
    with pytest.raises(InputError, match=r"findings\.json"):
        read_finding_names(tmp_path)


def test_the_command_reads_the_key_and_the_configuration(inputs, tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text(KEY.hex())
    key.chmod(0o600)
    truth = tmp_path / "restricted" / "truth"
    out = tmp_path / "again" / "manifest.parquet"
    arguments = ["evaluate", "truth", "--key-file", str(key), "--resampled", str(inputs.resampled[0])]
    arguments += ["--split", str(inputs.split), "--out", str(out), "--config", json.dumps({"truth_dir": str(truth)})]
    assert main(arguments) == 0
    assert read_truth(out)[0].height == 8
    assert main([*arguments, "--truth", str(tmp_path / "nowhere")]) == 1
    assert "findings.json: no such file" in capsys.readouterr().err
