"""Free sentences with a place of their own: what is asked of a study beside the prompts of its findings.

A truth folder lists them in `queries.csv` (id, query, finding, sentence) and draws them in `queries/<id>`, bit fields as the masks of
findings: bit k is the sentence whose `query` is k. The report shows the sentences, so they must hold no identifier.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from glint.core.errors import InputError, Quarantine
from glint.core.ids import Pseudonyms
from glint.core.parallel import parallel_map
from glint.core.provenance import digest, sha256_file
from glint.evaluation.mask_grid import bring_to_grid, name_in, truth_files
from glint.formats.manifest import empty_manifest, manifest_frame, read_manifest, write_manifest
from glint.formats.model_image import MASKS_PER_FILE

QUERIES_FILE = "queries.csv"
QUERIES_FOLDER = "queries"
TABLE = "queries.parquet"
COLUMNS = ("id", "query", "finding", "sentence")
Asked = list[tuple[str, str]]
"""Finding (empty where none is known) and sentence, in the order of the bits."""


def read_query_list(folder: Path, pseudonyms: Pseudonyms | None) -> dict[str, Asked]:
    """Pseudonym of the study, or of the film, → what is asked of it; nothing without the file.

    Raises:
        InputError: the table lacks a column, a sentence is empty, or the numbers of an id do not count from 0; its words hold no id.
    """
    file = folder / QUERIES_FILE
    if not file.is_file():
        return {}
    try:
        table = pl.read_csv(file, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file}: not a readable CSV table; write it again, as `glint truth-table` does") from error
    for name in COLUMNS:
        if name not in table.columns:
            raise InputError(f"{file}: no column {name!r}; it needs {', '.join(COLUMNS)}")
    found: dict[str, Asked] = {}
    for key, rows in table.group_by("id", maintain_order=True):
        ordered = sorted(rows.to_dicts(), key=lambda row: int(row["query"]) if str(row["query"]).isdigit() else -1)
        if [row["query"] for row in ordered] != [str(number) for number in range(len(ordered))]:
            raise InputError(f"{file}: the queries of an id must be numbered 0, 1, 2 …, each once")
        if len(ordered) > MASKS_PER_FILE:
            raise InputError(f"{file}: {len(ordered)} queries of one id, a mask file holds {MASKS_PER_FILE}")
        if not all((row["sentence"] or "").strip() for row in ordered):
            raise InputError(f"{file}: column 'sentence' is empty in a row; a query needs its sentence")
        asked = [(row["finding"] or "", row["sentence"].strip()) for row in ordered]
        names = (pseudonyms.study_id, pseudonyms.instance_id) if pseudonyms else (str,)
        found.update({name(str(key[0])): asked for name in names})
    return found


def _query_rows(item: tuple[Mapping[str, Any], Path, Asked], *, target: Path) -> list[dict[str, Any]]:
    """Rows of one study's sentences; their masks are written below `target`. No error may tell the file's name."""
    study, file, asked = item
    made: dict[str, Any] = {key: study[key] for key in ("study_id", "patient_id", "split")}
    inputs = [sha256_file(file), study["to_original"] or study["affine"]]
    made |= {"params_digest": digest(asked), "input_digest": digest(inputs)}
    said = [{**made, "query": k, "finding": one[0], "sentence": one[1]} for k, one in enumerate(asked)]
    try:
        _, on_grid, relative = bring_to_grid(study, file, num_masks=len(asked), target=target, folder=QUERIES_FOLDER)
    except Quarantine as reason:
        return [{**row, "status": "quarantined", "reason": reason.reason} for row in said]
    voxels = [int(np.count_nonzero(on_grid >> k & 1)) for k in range(len(asked))]
    return [
        {**row, "path": str(relative), "voxels": num}
        | ({"status": "ok"} if num else {"status": "quarantined", "reason": "smaller_than_a_voxel"})
        for row, num in zip(said, voxels, strict=True)
    ]


def make_queries(
    truth_dir: Path,
    *,
    pseudonyms: Pseudonyms | None,
    studies: Sequence[Mapping[str, Any]],
    target: Path,
    workers: int,
) -> int:
    """Bring the masks of every sentence onto its image's grid and list them in `target`; how many can be asked.

    Raises:
        InputError: see `read_query_list`.
    """
    listed = read_query_list(truth_dir, pseudonyms)
    if not listed:
        return 0
    files = truth_files(truth_dir / QUERIES_FOLDER, pseudonyms)
    items = [
        (study, files[name_in(study, files)], listed[name_in(study, listed)])
        for study in studies
        if name_in(study, files) in files and name_in(study, listed) in listed
    ]
    made = parallel_map(partial(_query_rows, target=target), items, workers=workers, description="sentences")
    rows = sorted((row for each in made for row in each), key=lambda row: (row["study_id"], row["query"]))
    write_manifest(target / TABLE, manifest_frame(rows, "evaluate_queries"), "evaluate_queries")
    return sum(row["status"] == "ok" for row in rows)


def read_queries(truth_manifest: Path) -> pl.DataFrame:
    """Sentences that can be asked, in order of study and number; empty where the truth has none.

    Raises:
        InputError: the table is of another schema.
    """
    file = truth_manifest.parent / TABLE
    if not file.is_file():
        return empty_manifest("evaluate_queries")
    return read_manifest(file, "evaluate_queries").filter(pl.col("status") == "ok").sort("study_id", "query")
