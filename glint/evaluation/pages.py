"""The finished pages of a run, gathered for `snakemake --report`: evaluation, training, cohort."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from glint.core.atomic import atomic_directory
from glint.core.errors import InputError
from glint.core.progress import log
from glint.evaluation.truth import read_truth
from glint.formats.manifest import read_manifest
from glint.formats.model_image import read_image_rows

COPIED = {"evaluation.html": "report.html", "zero_shot.csv": "tables/zero_shot.csv"}
"""Page → file of the evaluation's folder."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text below a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in the page itself."""

    title: str
    uri: str


def counted(frame: pl.DataFrame, title: str, by: Sequence[str], unit: str, note: str = "") -> Table:
    """How many rows of `frame` there are for each value of `by`, in their order; a null is an empty cell."""
    counts = frame.group_by(by).len().sort(by, nulls_last=True)
    rows = tuple(tuple("" if cell is None else f"{cell}" for cell in row) for row in counts.iter_rows())
    return Table(title=title, columns=(*by, unit), rows=rows, note=note)


def cohort_tables(*, resampled: Sequence[Path], split: Path, truth: Path) -> tuple[Table, ...]:
    """What became of the studies: on the grid, divided, with which findings.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    divided = read_manifest(split, "split")
    drawn, findings = read_truth(truth)
    splits = [name for name in ("train", "validation", "test") if name in set(divided["split"])]
    positives = drawn.explode("findings", empty_as_null=False, keep_nulls=False)
    counts = {(name, part): num for name, part, num in positives.group_by("findings", "split").len().iter_rows()}
    patients = divided.filter(pl.col("status") == "ok").group_by("split").agg(pl.len(), pl.col("patient_id").n_unique())
    sizes = {str(name): (num, people) for name, num, people in patients.iter_rows()}
    return (
        Table(
            title="Splits",
            columns=("split", "studies", "patients"),
            rows=tuple((name, *(str(one) for one in sizes.get(name, (0, 0)))) for name in splits),
            note="A patient is in one split with all studies.",
        ),
        Table(
            title="Studies with a finding",
            columns=("finding", *splits),
            rows=tuple(
                (name.replace("_", " "), *(str(counts.get((name, part), 0)) for part in splits)) for name in findings
            ),
            note="By masks or labels, which evaluation alone reads.",
        ),
        counted(divided, "06 split", ("status", "reason"), "studies"),
        counted(read_image_rows(resampled), "04 resample", ("status", "reason"), "studies"),
    )


def training_parts(checkpoints: Sequence[Path]) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Curves of every run that left some, and what each was made from, as its fingerprint names it."""
    pictures, tables = [], []
    for folder in checkpoints:
        curves, fingerprint = folder / "curves.png", folder / "fingerprint.json"
        if curves.is_file():
            uri = "data:image/png;base64," + base64.b64encode(curves.read_bytes()).decode("ascii")
            pictures.append(Picture(title=folder.name.replace("_", " "), uri=uri))
        if fingerprint.is_file():
            flat = _flat(json.loads(fingerprint.read_text(encoding="utf-8")))
            tables.append(Table(title=f"{folder.name}: made from", columns=("what", "value"), rows=tuple(flat)))
    return tuple(pictures), tuple(tables)


def _flat(tree: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, dict):
        return [row for key, value in tree.items() for row in _flat(value, f"{path} / {key}" if path else str(key))]
    return [(path, tree if isinstance(tree, str) else json.dumps(tree))]


def render_page(title: str, note: str, *, tables: Sequence[Table] = (), pictures: Sequence[Picture] = ()) -> str:
    """One HTML file that needs nothing else; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title, note=note, tables=tables, pictures=pictures, version=version("glint")
    )


def gather_pages(
    *,
    evaluation: Path,
    checkpoints: Sequence[Path],
    resampled: Sequence[Path],
    split: Path,
    truth: Path,
    out: Path,
) -> None:
    """Fill `out`, made whole, with evaluation.html, zero_shot.csv, training.html and cohort.html.

    Args:
        evaluation: Folder of metrics.json.

    Raises:
        InputError: a page or a manifest is absent.
    """
    wanted = {page: evaluation / name for page, name in COPIED.items()}
    for file in wanted.values():
        if not file.is_file():
            raise InputError(f"{file}: no such page; remove metrics.json beside it and run evaluate again")
    tables = cohort_tables(resampled=resampled, split=split, truth=truth)
    curves, made_from = training_parts(checkpoints)
    with atomic_directory(out) as folder:
        for page, file in wanted.items():
            shutil.copyfile(file, folder / page)
        cohort = render_page("The cohort", "What arrived at each stage, and what was set aside and why.", tables=tables)
        (folder / "cohort.html").write_text(cohort, encoding="utf-8")
        told = "Losses and validation of each run." if curves else "The checkpoints came without curves."
        training = render_page("The training", told, tables=made_from, pictures=curves)
        (folder / "training.html").write_text(training, encoding="utf-8")
    log(f"pages: {len(wanted) + 2} in {out}")
