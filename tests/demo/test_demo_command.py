"""`glint demo` on the command line."""

from pathlib import Path

import pytest

from glint.cli.__main__ import main


def test_the_command_says_where_things_are_and_how_often_each_finding_occurs(tmp_path: Path, capsys):
    out = tmp_path / "hospital"
    config = '{"defects": false, "studies": 9}'
    assert main(["demo", "--studies", "1", "--seed", "6", "--out", str(out), "--workers", "1", "--config", config]) == 0
    printed = capsys.readouterr().out
    assert str(out / "dicom") in printed
    assert "hiatal_hernia" in printed
    assert (out / "summary.json").is_file()


@pytest.mark.parametrize("config", ['{"studeis": 3}', '{"pixel_mm_min": 5.0}', '{"studies": 0}'])
def test_a_wrong_configuration_stops_with_one_line_and_makes_nothing(tmp_path: Path, capsys, config: str):
    assert main(["demo", "--out", str(tmp_path / "out"), "--config", config]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
