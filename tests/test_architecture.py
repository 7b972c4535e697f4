"""The tree shows the pipeline, and the walls stand."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from glint.cli.__main__ import COMMANDS
from glint.core.config.schema import Config, modalities_of

REPOSITORY = Path(__file__).resolve().parents[1]
RULES = sorted((REPOSITORY / "workflow" / "rules").glob("[0-9]*.smk"))
STAGES = [path.stem for path in RULES]
MODULES = sorted((REPOSITORY / "glint").rglob("*.py"))


def number(stage: str) -> int:
    return int(stage[:2])


def noun(stage: str) -> str:
    return stage[3:]


def folders(text: str) -> set[str]:
    """Stage folders that a rule file names, such as `04_resample`."""
    return set(re.findall(r"(?:results|restricted|logs|state)/\{?\{?[a-z.]+\}?\}?/(\d\d_[a-z]+)", text))


def blocks(path: Path, directive: str) -> str:
    """The text of every `directive:` block of a rule file."""
    found, inside, indent = [], False, 0
    for line in path.read_text().splitlines():
        depth = len(line) - len(line.lstrip())
        if inside and line.strip() and depth <= indent:
            inside = False
        if inside:
            found.append(line)
        if re.match(rf"\s+{directive}:", line):
            inside, indent = True, depth
    return "\n".join(found)


def test_stages_are_numbered_without_gaps():
    assert [number(stage) for stage in STAGES] == list(range(11))


@pytest.mark.parametrize("stage", STAGES)
def test_one_stem_names_rule_command_config_section_and_test(stage):
    name = noun(stage)
    assert name in COMMANDS and COMMANDS.index(name) == number(stage)
    assert (REPOSITORY / "glint" / "cli" / f"{name}.py").is_file()
    assert (REPOSITORY / "glint" / "core" / "config" / f"{name}.py").is_file()
    assert name in Config.model_fields
    text = (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()
    assert re.search(rf"^rule {name}", text, re.MULTILINE)
    assert f"python -m glint {name}" in text


@pytest.mark.parametrize("path", RULES, ids=STAGES)
def test_a_stage_writes_only_its_own_folder(path):
    for directive in ("output", "log", "benchmark"):
        assert folders(blocks(path, directive)) == {path.stem}, directive


@pytest.mark.parametrize("path", RULES, ids=STAGES)
def test_a_stage_reads_only_lower_numbers_and_itself(path):
    assert all(number(stage) <= number(path.stem) for stage in folders(path.read_text()))


@pytest.mark.parametrize("path", RULES, ids=STAGES)
def test_every_rule_with_a_command_has_log_benchmark_configuration_recipe_and_receipt(path):
    text = path.read_text()
    rules = len(re.findall(r"^rule [a-z_]+:", text, re.MULTILINE))
    for needed in ("    log:", "    benchmark:", "config=slice_json(", "recipe=recipe(", "recorded("):
        assert text.count(needed) == rules, needed


def test_only_the_first_two_stages_name_the_restricted_folder():
    for path in RULES:
        if number(path.stem) > 2 and path.stem != "10_evaluate":
            assert "restricted" not in path.read_text(), path.name


def test_truth_is_named_by_no_rule_below_stage_ten():
    for path in RULES:
        if path.stem not in ("00_demo", "10_evaluate"):
            assert "truth" not in path.read_text(), path.name


def test_no_code_below_stage_ten_can_reach_the_truth():
    """Neither the truth's reader nor its folder is known to code that prepares data or trains."""
    allowed = ("glint/evaluation", "glint/demo", "glint/cli/evaluate.py", "glint/cli/demo.py", "glint/metrics")
    allowed += ("glint/cli/truth_table.py",)
    allowed += ("glint/core/config/evaluate.py", "glint/core/config/demo.py", "glint/formats/schemas/evaluate.py")
    allowed += ("glint/formats/truth.py",)
    for path in MODULES:
        relative = path.relative_to(REPOSITORY).as_posix()
        if relative.startswith(allowed):
            continue
        tree = ast.parse(path.read_text())
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any("truth" in name.lower() for name in names | modules), relative
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not any("00_demo/truth" in value or "truth_dir" in value for value in strings), relative


def test_the_readme_table_equals_the_rules():
    rows = re.findall(r"^\| (\d\d) \| `([a-z]+)` \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert [f"{number}_{name}" for number, name in rows] == STAGES


def test_identifiers_cannot_become_dvc_outputs():
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].items():
        for output in stage["outs"] + stage.get("metrics", []):
            path = output if isinstance(output, str) else next(iter(output))
            assert path.startswith("results/"), (name, path)
    assert "restricted" in (REPOSITORY / ".dvcignore").read_text().split()
    assert "/restricted/" in (REPOSITORY / ".gitignore").read_text().split()


def test_the_code_that_a_dvc_stage_depends_on_is_where_it_says():
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].items():
        code = [path for path in stage["deps"] if path.startswith("glint/")]
        assert code, name
        assert [path for path in code if not (REPOSITORY / path).exists()] == [], name


def test_every_stage_has_its_dvc_stage():
    declared = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    stages = [noun(stage) for stage in STAGES if number(stage) >= 2]
    films = [stage for stage in stages if "cxr" in modalities_of(stage)]
    assert list(declared) == [f"{stage}_ct" for stage in stages] + [f"{stage}_cxr" for stage in films]


def test_every_configuration_field_says_its_unit_and_reason():
    def visit(model, where):
        for name, field in model.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                visit(annotation, f"{where}.{name}")
            else:
                assert field.description, f"{where}.{name}"

    for name, field in Config.model_fields.items():
        if field.exclude:  # read from files of its own
            assert field.description, name
            continue
        annotation = field.annotation
        assert isinstance(annotation, type)
        if hasattr(annotation, "model_fields"):
            visit(annotation, name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_modules_are_small_and_have_a_proper_name(path):
    assert len(path.read_text().splitlines()) <= 400
    assert not re.search(r"util|helper|misc|manager|process", path.stem)
