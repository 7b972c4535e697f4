"""The conda environments follow the project's pins."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "envs"


def test_the_environment_files_are_what_the_pins_say():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, content in generate.environments().items():
        assert (FOLDER / name).read_text() == content, f"{name}: run python envs/generate.py"


def test_the_lock_names_versions_only():
    for line in (FOLDER.parent / "requirements.lock").read_text().splitlines():
        assert "==" in line and "/" not in line and "--" not in line, line
