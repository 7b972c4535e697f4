"""docs/training.md: its command runs as it stands, its YAML is valid configuration, its key names exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_train_command import write_inputs

from glint import Glint
from glint.core.config.schema import read_config

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
STAGES = {"04": "04_resample", "05": "05_sections", "06": "06_split", "07": "07_teacher", "08": "08_features"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_command_trains_and_the_checkpoint_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a workspace of a tiny cohort."""
    write_inputs(tmp_path / "made")
    (tmp_path / "results" / "ct").mkdir(parents=True)
    for number, stage in STAGES.items():
        (tmp_path / "made" / number).rename(tmp_path / "results" / "ct" / stage)
    (command,) = blocks("bash")
    command = command.replace("glint train", f"{sys.executable} -m glint train")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "open on positives" in run.stderr and "GiB" in run.stderr
    monkeypatch.chdir(tmp_path)
    (python,) = blocks("python")
    assert "Glint.from_pretrained" in python
    namespace: dict[str, object] = {}
    exec(python, namespace)
    assert isinstance(namespace["model"], Glint)
    written = {path.name for path in (tmp_path / "trial" / "glint").iterdir()}
    section = PAGE.split("## 2. ")[1].split("```")[0]
    assert written == {
        name.strip("/") for name in re.findall(r"`([a-z_A-Z.]+/?)`", section) if "." in name or "/" in name
    }
    (state,) = (tmp_path / "state" / "trial").iterdir()
    assert (state / "state.safetensors").is_file() and (state / "gate_maps" / "index.html").is_file()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_what_the_page_sets_is_valid_configuration(text: str) -> None:
    read_config(REPOSITORY / "config", {"cohort": "demo", **yaml.safe_load(text)})


def test_the_keys_that_the_page_names_exist() -> None:
    known = (REPOSITORY / "config" / "config.yaml").read_text("utf-8")
    for key in re.findall(r"`(?:[a-z]+\.)?([a-z]+_[a-z_]+)(?:: [^`]*)?`", PAGE):
        assert re.search(rf"^\s+{key}:", known, re.MULTILINE) or key in ("gate_maps", "text_encoder"), key
