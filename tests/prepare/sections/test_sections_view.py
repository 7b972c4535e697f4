"""The page of stage 05: the text is whole, colours follow polarity, nothing set aside is hidden."""

import html
import re

import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.core.config.sections import SectionsConfig
from glint.formats.manifest import manifest_frame, write_manifest
from glint.prepare.sections.shard import section_shard
from glint.prepare.sections.view import co_occurrence, prevalence, read_tables

TEXTS = {
    "s1": "FINDINGS: A 7 mm nodule in the left upper lobe <b>. No effusion.\nIMPRESSION: Possible emphysema and mass.",
    "s2": "There is a nodule in the right lung. Emphysema is seen.",
    "s3": "Kein Nachweis eines Pleuraergusses. Herz normal groß. Keine Rundherde in beiden Lungen erkennbar.",
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    rows = [
        {"study_id": name, "status": "ok", "reason": None, "text": text, "num_replacements": 0}
        | {"input_digest": "0" * 64, "params_digest": "0" * 64}
        for name, text in TEXTS.items()
    ]
    write_manifest(folder / "in.parquet", manifest_frame(rows, "deidentify_reports"), "deidentify_reports")
    section_shard(folder / "in.parquet", folder / "out" / "manifest.parquet", SectionsConfig())
    return folder / "out" / "manifest.parquet"


def test_the_page_shows_every_character_colours_by_polarity_and_lists_what_was_set_aside(manifest, tmp_path):
    assert main(["report-view", "--sections", str(manifest), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    marks = re.findall(r'<mark class="(\w+)" title="([^"]+)">([^<]+)</mark>', page)
    assert ("present", "nodule present, left upper, 7 mm", "nodule") in marks
    assert ("absent", "pleural effusion absent", "effusion") in marks
    assert ("uncertain", "emphysema uncertain", "emphysema") in marks
    bare = html.unescape(re.sub(r"<[^>]+>", "", page)).replace("¦ ", "")
    assert "A 7 mm nodule in the left upper lobe <b>. No effusion." in bare
    assert "1 other_language" in bare
    assert "http" not in page


def test_cohort_tables_count_reports(manifest):
    tables = read_tables([manifest])
    rows = {row["finding"]: row for row in prevalence(tables)}
    assert rows["nodule"] == {"finding": "nodule", "present": 2, "uncertain": 0, "absent": 0, "silent": 0}
    assert rows["emphysema"] == {"finding": "emphysema", "present": 1, "uncertain": 1, "absent": 0, "silent": 0}
    assert co_occurrence(tables, ["nodule", "emphysema"]) == [[2, 1], [1, 1]]
    assert tables.studies.filter(pl.col("unsectioned"))["study_id"].to_list() == ["s2"]


def test_an_unknown_study_is_refused_in_one_line(manifest, tmp_path, capsys):
    arguments = ["report-view", "--sections", str(manifest), "--out", str(tmp_path / "p.html"), "--study", "nobody"]
    assert main(arguments) == 1
    assert "study nobody is not in these tables" in capsys.readouterr().err
