"""The conda environments and the container recipes follow the project's pins."""

import fnmatch
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "envs"
REPOSITORY = FOLDER.parent
RECIPES = ["Dockerfile", "glint.def"]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_environment_files_are_what_the_pins_say(generate):
    for name, content in generate.environments().items():
        assert (FOLDER / name).read_text() == content, f"{name}: run python envs/generate.py"


def test_the_lock_names_versions_only():
    for line in (FOLDER.parent / "requirements.lock").read_text().splitlines():
        assert "==" in line and "/" not in line and "--" not in line, line


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_container_has_the_python_and_the_packages_of_the_conda_environment(recipe, generate):
    """Same Python; and the project's dependencies with the extras that the environment holds, at locked versions."""
    text = (FOLDER / recipe).read_text()
    conda = generate.environments()["glint.yaml"]
    base = re.search(r"^(?:From: |ARG BASE=)python:([0-9.]+)-slim$", text, re.MULTILINE)
    assert base is not None and f"python={base[1]}\n" in conda
    installs = re.findall(r'pip install .*-c requirements\.lock "\.\[([a-z,]+)\]"', text)
    assert len(installs) == 1 and text.count("pip install") == 1
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in installs[0].split(",")]
    wanted = {re.match(r"[A-Za-z0-9_.-]+", item)[0].lower() for item in sum(extras, project["dependencies"])}
    assert wanted == set(re.findall(r"- ([a-z0-9_.-]+)==", conda))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_container_takes_in_code_and_pins_and_nothing_of_a_workspace(recipe):
    text = (FOLDER / recipe).read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) if recipe == "Dockerfile" else []
    copied += re.findall(r"^ +(\S+) /opt/glint/", text, re.MULTILINE)
    taken = {name for line in copied for name in line.split()}
    assert taken == {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "glint"}
    assert all((REPOSITORY / name).exists() for name in taken)
    assert "envs/README.md" in text, "a recipe says where to read what was tried of it"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_container_runs_its_own_package_whatever_folder_it_is_started_in(recipe):
    """`python -m glint` would take a checkout in the working folder first, and plan and jobs would differ."""
    assert "PYTHONSAFEPATH=1" in (FOLDER / recipe).read_text()


def test_what_docker_sends_to_its_builder_has_no_data():
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for private in ("restricted", "results", "state", "logs", "config", ".venv", ".git", ".dvc"):
        assert not any(fnmatch.fnmatch(private, pattern) for pattern in kept)


def test_a_dry_run_that_deploys_by_conda_needs_no_conda(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(tmp_path), "--cores", "1", "--dry-run", "--software-deployment-method", "conda"]
    run = subprocess.run([*command, "--", "train_ct"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "This was a dry-run" in run.stdout + run.stderr
