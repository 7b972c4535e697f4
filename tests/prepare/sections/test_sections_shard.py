"""One shard of reports through stage 05: whole tables, spans that round-trip, a reason for every refusal."""

import time

import polars as pl
import pytest

from glint.cli.__main__ import main
from glint.core.config.sections import SectionsConfig
from glint.core.errors import Quarantine
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.sections.shard import check_readable, parse_report, section_shard

GOOD = """CLINICAL INFORMATION: Known lung mass on the left, pneumothorax?
TECHNIQUE: CT of the chest without contrast.
COMPARISON: Pleural effusion on CT of [DATE].
FINDINGS:
There is a 12 mm nodule in the right upper lobe. No pleural effusion.
IMPRESSION: Right upper lobe nodule."""

BAD = {
    "empty": ("", "empty_report"),
    "blank": (" \n\t ", "empty_report"),
    "stub": ("See above", "empty_report"),
    "binary": ("\x00\x01\x02\x03PK\x05\x06\x07 chest report" * 5, "not_text"),
    "numbers": ("12.5 33.1 | 18 | 9.2 | 44,1; 88 -- 12 %% 55 mm abcdefghijklm", "not_text"),
    "german": (
        "Kein Nachweis eines Pleuraergusses. Herz normal groß. Keine Rundherde in beiden Lungen erkennbar.",
        "other_language",
    ),
    "polish": ("Płuca bez zmian ogniskowych. Nie stwierdza się płynu w jamach opłucnowych.", "other_language"),
    "turkish": (
        "Her iki akciğerde nodül izlenmedi. Plevral efüzyon saptanmadı. Kalp boyutları normaldir.",
        "other_language",
    ),
    "arabic": ("لا يوجد انصباب جنبي في الرئتين ولا توجد عقيدات", "other_language"),
    "hebrew": ("אין תפליט פלאורלי בריאות ואין קשריות. הלב בגודל תקין.", "other_language"),
    "utf16": ("FINDINGS: No nodule is seen in the lung.".encode("utf-16-le").decode("latin-1"), "not_text"),
    "html": ("<html><body><p>FINDINGS: No nodule is seen.</p></body></html>", "markup"),
    "html_inside": ("FINDINGS:<br>No nodule.<br>No effusion is seen in the <b>left</b> lung.<br>", "markup"),
    "rtf": (r"{\rtf1\ansi\deff0 {\fonttbl{\f0 Arial;}} FINDINGS: No nodule is seen in the lung.\par}", "markup"),
    "long": ("No nodule is seen in the lung. " * 10_000, "too_long"),
}


def reports_manifest(path, texts: dict[str, str | None], status: str = "ok", reason: str | None = None):
    rows = [
        {"study_id": study_id, "status": status, "reason": reason, "text": text, "num_replacements": 0}
        | {"input_digest": "0" * 64, "params_digest": "0" * 64}
        for study_id, text in texts.items()
    ]
    write_manifest(path, manifest_frame(rows, "deidentify_reports"), "deidentify_reports")
    return path


@pytest.fixture
def shard(tmp_path):
    source = reports_manifest(
        tmp_path / "in" / "manifest.parquet", {"good": GOOD} | {k: t for k, (t, _) in BAD.items()}
    )
    out = tmp_path / "05_sections" / "shard-000" / "manifest.parquet"
    assert main(["sections", "--manifest", str(source), "--out", str(out)]) == 0
    return out


def test_each_unreadable_report_is_quarantined_with_its_reason(shard):
    manifest = read_manifest(shard, "sections")
    got = {row["study_id"]: (row["status"], row["reason"]) for row in manifest.iter_rows(named=True)}
    assert got == {"good": ("ok", None)} | {name: ("quarantined", reason) for name, (_, reason) in BAD.items()}


def test_only_findings_and_impression_state_findings(shard):
    findings = read_manifest(shard.parent / "findings.parquet", "findings")
    assert findings.select("finding", "polarity", "laterality", "region", "size_mm").rows() == [
        ("nodule", "present", "right", "upper", 12.0),
        ("pleural_effusion", "absent", None, None, None),
        ("nodule", "present", "right", "upper", None),
    ]


def test_every_span_of_every_table_round_trips_into_the_report(shard):
    for name, schema in (("sections", "section_spans"), ("sentences", "sentences")):
        frame = read_manifest(shard.parent / f"{name}.parquet", schema)
        assert frame.height
        for row in frame.iter_rows(named=True):
            assert GOOD[row["start"] : row["end"]] == row["text"]
    sentences = read_manifest(shard.parent / "sentences.parquet", "sentences")
    findings = read_manifest(shard.parent / "findings.parquet", "findings").join(
        sentences.select("sentence_index", a="start", b="end"), on="sentence_index"
    )
    assert [GOOD[row["start"] : row["end"]] for row in findings.iter_rows(named=True)] == [
        "nodule",
        "pleural effusion",
        "nodule",
    ]
    assert findings.filter((pl.col("start") < pl.col("a")) | (pl.col("end") > pl.col("b"))).is_empty()


def test_what_stage_02_quarantined_stays_so(tmp_path):
    source = reports_manifest(tmp_path / "in.parquet", {"a": None}, status="quarantined", reason="no_report")
    out = tmp_path / "out" / "manifest.parquet"
    section_shard(source, out, SectionsConfig())
    assert read_manifest(out, "sections").select("status", "reason").rows() == [("quarantined", "no_report")]


def test_equal_input_gives_equal_bytes_whatever_the_order_and_workers(tmp_path):
    texts = {"b": GOOD, "a": "CT chest. No nodule in either lung is seen."}
    folders = []
    for number, (order, workers) in enumerate([(texts, 1), (dict(reversed(texts.items())), 2)]):
        source = reports_manifest(tmp_path / f"in{number}.parquet", order)
        section_shard(source, tmp_path / f"out{number}" / "manifest.parquet", SectionsConfig(), workers=workers)
        folders.append({p.name: p.read_bytes() for p in (tmp_path / f"out{number}").iterdir()})
    assert folders[0] == folders[1]
    assert set(folders[0]) == {"manifest.parquet", "sections.parquet", "sentences.parquet", "findings.parquet"}


def test_reports_without_headers_are_flagged_and_can_be_kept_from_stating(tmp_path):
    source = reports_manifest(tmp_path / "in.parquet", {"a": "CT of the chest. There is a nodule in the left lung."})
    for read_unsectioned, count in ((True, 1), (False, 0)):
        out = tmp_path / f"out{count}" / "manifest.parquet"
        section_shard(source, out, SectionsConfig(read_unsectioned=read_unsectioned))
        row = read_manifest(out, "sections").row(0, named=True)
        assert (row["unsectioned"], row["status"], row["num_findings"]) == (True, "ok", count)
        assert read_manifest(out.parent / "sentences.parquet", "sentences")["section"].unique().to_list() == [
            "unsectioned"
        ]


@pytest.mark.parametrize(
    "text", ["Small left pleural effusion.", "1. Nodule RUL\n2. Emphysema", "XXXX. No acute disease. XXXX XXXX."]
)
def test_telegram_style_and_masked_words_are_still_readable(text):
    check_readable(text, SectionsConfig())


def test_a_million_characters_in_one_line_end_quickly_with_a_reason():
    with pytest.raises(Quarantine) as refusal:
        check_readable("no nodule " * 100_000, SectionsConfig())
    assert refusal.value.reason == "too_long"


def test_ten_thousand_sentences_are_read_in_seconds():
    text = "FINDINGS: " + "No mass seen. " * 10_000
    started_s = time.process_time()
    check_readable(text, SectionsConfig())
    _, sentences, _ = parse_report("s", text, SectionsConfig())
    assert len(sentences) == 10_000
    assert time.process_time() - started_s < 8


def test_a_million_letters_without_a_space_end_with_a_reason():
    with pytest.raises(Quarantine):
        check_readable("x" * 1_000_000, SectionsConfig())


def test_signs_of_comparison_are_no_markup():
    check_readable("FINDINGS: Nodules < 3 mm in the left lung, effusion > 2 cm. No mass.", SectionsConfig())
