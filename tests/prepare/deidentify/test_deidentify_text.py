"""Identities leave the report, dates move with the patient, clinical words stay."""

import csv
import json
import re
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from dicom_builder import write_ct_series

from glint.cli.__main__ import main
from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms
from glint.prepare.deidentify.text import KnownIdentity, clean_text
from glint.prepare.deidentify.values import parse_date
from glint.prepare.deidentify.written_dates import DateShift

KNOWN = KnownIdentity(
    persons=["Quillfeather^Ottoline^M", "Brackenbury^Tobias^^Dr", "Müller-Lüdenscheidt^Jörg", "Small^Rose"],
    identifiers=["MRN4471902", "ACC-7730041", "1.2.826.0.1.3680043.10.999.1.1"],
    institutions=["Mercy Hill Hospital", "Radiology"],
)
NOBODY = KnownIdentity(persons=[], identifiers=[], institutions=[])
SHIFT = DateShift(days=70, study_date=date(2021, 3, 14), birth_dates=frozenset({date(1954, 11, 3)}), day_first=False)


def clean(text: str, known: KnownIdentity = KNOWN, shift: DateShift = SHIFT) -> str:
    return clean_text(text, known, shift).text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Quillfeather was seen.", "[NAME] was seen."),
        ("QUILLFEATHER, OTTOLINE M. seen", "[NAME] seen"),
        ("ottoline quillfeather's scan", "[NAME]'s scan"),
        ("Quilfeather and Quillfaether seen", "[NAME] and [NAME] seen"),
        ("Muller-Ludenscheidt, Jorg", "[NAME]"),
        ("Jörg Mueller-Luedenscheidt", "[NAME]"),
        ("Seen with Tobias Brackenbury today", "Seen with [NAME] today"),
        ("MRN 4471902, MRN4471902, mrn: 4471902", "[ID], [ID], [ID]"),
        ("acc 7730041 / ACC7730041", "[ID] / [ID]"),
        ("at Mercy Hill Hospital, Mercy Hill and MERCY HILL", "at [INSTITUTION], [INSTITUTION] and [INSTITUTION]"),
        ("study 1.2.826.0.1.3680043.10.999.1.1 here", "study [ID] here"),
        ("Ms. Small and Rose Small came", "Ms. [NAME] and [NAME] came"),
    ],
)
def test_known_identities_go_however_they_are_written(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Discussed with Dr. John S. Smith at 14:30.", "Discussed with Dr. [NAME] at [TIME]."),
        ("Discussed with Dr. Maria de Souza, who agreed.", "Discussed with Dr. [NAME], who agreed."),
        ("seen by dr. jones today", "seen by dr. [NAME] today"),
        ("Mr. van der Berg and Prof O'Neill-Carter", "Mr. [NAME] and Prof [NAME]"),
        ("Dictated by: John Q. Public, MD", "Dictated by: [NAME]"),
        (
            "Electronically signed by SARAH CONNOR, M.D.\nFINDINGS: none",
            "Electronically signed by [NAME]\nFINDINGS: none",
        ),
        ("Attending: Laura Palmer\nIMPRESSION: clear", "Attending: [NAME]\nIMPRESSION: clear"),
        ("DISCUSSED WITH DR. SMITH WHO WAS NOTIFIED", "DISCUSSED WITH DR. [NAME] WHO WAS NOTIFIED"),
        ("Patient: 55-year-old woman", "Patient: 55-year-old woman"),
        ("The results were discussed with the referring physician.",) * 2,
        ("call (555) 201-3344, 555-201-3344 or pager 4471", "call [PHONE], [PHONE] or pager [PHONE]"),
        ("MRN: 88123, accession number A-55512, SSN 123-45-6789", "MRN: [ID], accession number [ID], SSN [ID]"),
        ("j.doe@mercy.org, see http://pacs.org/x?id=3.", "[EMAIL], see [URL]."),
        ("lives at 12 Oak Tree Lane since", "lives at [ADDRESS] since"),
        ("Shown to AKCIVAN BORSUK on the ward.", "Shown to [NAME] on the ward."),
        ("SMALL LEFT EFFUSION in the lower zone", "SMALL LEFT EFFUSION in the lower zone"),
        ("Department secretary ext. 4471.", "Department secretary ext. [PHONE]."),
        ("at 9:05 am, 1430 hours, 10:15:20", "at [TIME], [TIME], [TIME]"),
        ("A 94-year-old man, 89 year old wife", "A 90-year-old man, 89 year old wife"),
    ],
)
def test_unknown_identities_go_by_their_form(text: str, cleaned: str) -> None:
    assert clean(text, NOBODY) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("03/14/2021", "05/23/2021"),
        ("3/4/2021", "5/13/2021"),
        ("14/03/2021", "23/05/2021"),
        ("14.03.2021", "23.05.2021"),
        ("3/14/21", "5/23/21"),
        ("2021-03-14", "2021-05-23"),
        ("20210314", "20210523"),
        ("March 14, 2021", "May 23, 2021"),
        ("MARCH 14TH, 2021", "MAY 23rd, 2021"),
        ("Mar. 14 2021", "May. 23 2021"),
        ("14 March 2021", "23 May 2021"),
        ("the 1st of January 2018", "the 12th of March 2018"),
        ("14-MAR-2021", "23-MAY-2021"),
        ("14Mar2021", "23May2021"),
        ("in March 2021", "in May 2021"),
        ("on March 14 the", "on May 23 the"),
        ("CT of 12/30.", "CT of 03/10."),
        ("born 11/03/1954", "born [DATE]"),
        ("31/02/2020", "[DATE]"),
        ("02/30/2020", "[DATE]"),
    ],
)
def test_dates_move_and_keep_their_written_form(text: str, cleaned: str) -> None:
    assert clean(text, NOBODY) == cleaned


def test_day_first_decides_ambiguous_dates_only() -> None:
    european = DateShift(days=70, study_date=None, birth_dates=frozenset(), day_first=True)
    assert clean("03/04/2021 and 03/14/2021", NOBODY, european) == "12/06/2021 and 05/23/2021"
    assert clean("seen on March 14 again", NOBODY, european) == "seen on [DATE] again"


CLINICAL = """T4 compression fracture, L1-L5 intact, T12/L1 disc. Series 4, image 112; slice 88.
Seen on images 23-27 and 10/11/12.
A 4 mm nodule, 3.5 x 2.4 x 1.2 cm mass, 12-15 mm, 35 HU, -850 HU, 100-1000 HU, 120 kVp, 50 %.
Lung-RADS 4A, BI-RADS 2, T1aN0M0, pT2 N1 M0, grade 3/6, 2/3 of the lobe, ratio 1:2.
Kerley B lines, Swan-Ganz catheter, Hampton hump, Bochdalek hernia, Fleischner criteria.
Small left effusion. Small nodules. May be artifact. Rose thorn pattern. Stable since 2015, 2 months ago.
Long segment. Right hilar node of 1.2 cm. Aorta 4.1 cm. Segment 8. COVID-19. Emphysema in 3 of 5 lobes."""


def test_clinical_words_and_numbers_stay() -> None:
    assert clean(CLINICAL, NOBODY) == CLINICAL
    assert clean(CLINICAL) == CLINICAL


def test_a_patient_named_like_a_finding_does_not_cost_the_finding() -> None:
    assert clean("Small effusion; small nodule. Seen by Rose Small.") == "Small effusion; small nodule. Seen by [NAME]."


def test_real_reports_keep_their_words(real_data: Path) -> None:
    """Independent yardstick: of 150 real reports without identities, at least 99.9 % of all words stay."""
    file = real_data / "5_report_text" / "ct_rate_sections" / "validation_reports.csv"
    with file.open(encoding="utf-8", newline="") as handle:
        texts = [row["Findings_EN"] for row in csv.DictReader(handle)][:150]
    words = [word for text in texts for word in text.split() if not any(c.isdigit() for c in word)]
    kept = [word for text in texts for word in clean(text).split() if not any(c.isdigit() for c in word)]
    assert len(words) > 10_000
    assert len([word for word in kept if "[" not in word]) >= 0.999 * len(words)


def test_every_real_date_moves_by_the_same_days(real_data: Path) -> None:
    """The dated comparisons of real reports: no original date is left, and each moves by exactly the shift."""
    numeric = re.compile(r"(?<![\d.])(\d\d)\.(\d\d)\.(20\d\d)(?!\d)")
    file = real_data / "5_report_text" / "ct_clip_labelled" / "reports_18labels.csv"
    european = DateShift(days=70, study_date=None, birth_dates=frozenset(), day_first=True)
    count = 0
    with file.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            text = " ".join(value for value in row.values() if value)
            if not numeric.search(text):
                continue
            expected = []
            for first, second, year in numeric.findall(text):
                day, month = (int(first), int(second)) if int(second) <= 12 else (int(second), int(first))
                expected.append(date(int(year), month, day) + timedelta(days=70))
            found = numeric.findall(clean(text, NOBODY, european))
            for (first, second, year), moved in zip(found, expected, strict=True):
                assert (int(year), {int(first), int(second)}) == (moved.year, {moved.day, moved.month})
                count += 1
    assert count > 30


def test_a_surviving_identifier_quarantines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glint.prepare.deidentify.text.person_spans", lambda text, names: [])
    with pytest.raises(Quarantine, match="residual_identifier") as caught:
        clean("Seen: quillfeather again")
    assert "uillfeather" not in str(caught.value)


def test_report_and_header_of_a_patient_move_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLINT_DEID_KEY_FILE", str(tmp_path / "secret" / "key"))
    write_ct_series(tmp_path / "raw" / "1", study=1, num_slices=2)
    write_ct_series(tmp_path / "raw" / "2", study=2, num_slices=2, AccessionNumber="A2")
    text = "CT of 03/14/2021, read by Dr. Hu for MRN4471902 Quillfeather and zzyzx-name Wolfgang."
    table = tmp_path / "reports.csv"
    frame = pl.DataFrame({"accession_number": ["ACC7730041"], "report": [text], "patient_name": ["Wolfgang Zzyzx"]})
    frame.write_csv(table)
    out = tmp_path / "index"
    config = ["--config", '{"num_shards": 1, "identifier_columns": ["patient_name"]}']
    assert (
        main(["index", "images", "--raw", str(tmp_path / "raw"), "--out", str(out / "images"), "--create-key", *config])
        == 0
    )
    assert (
        main(
            [
                "index",
                "reports",
                "--images",
                str(out / "images"),
                "--table",
                str(table),
                "--out",
                str(out / "r"),
                *config,
            ]
        )
        == 0
    )
    command = ["deidentify", "reports", "--reports", str(out / "r" / "shard-000" / "reports.parquet")]
    command += ["--studies", str(out / "images" / "shard-000" / "studies.parquet")]
    assert main([*command, "--out", str(tmp_path / "a" / "manifest.parquet")]) == 0
    assert main([*command, "--out", str(tmp_path / "b" / "manifest.parquet")]) == 0
    assert (tmp_path / "a" / "manifest.parquet").read_bytes() == (tmp_path / "b" / "manifest.parquet").read_bytes()
    spans = tmp_path / "restricted" / "02" / "original_spans.parquet"
    again = [*command, "--out", str(tmp_path / "c" / "manifest.parquet"), "--original-spans"]
    assert main([*again, str(spans)]) == 0 and main([*again, str(tmp_path / "open.parquet")]) == 1
    assert spans.stat().st_mode & 0o077 == 0 and pl.read_parquet(spans).height > 0
    rows = {row["reason"]: row for row in pl.read_parquet(tmp_path / "a" / "manifest.parquet").iter_rows(named=True)}
    assert set(rows) == {None, "no_report"}
    key = Pseudonyms(bytes.fromhex((tmp_path / "secret" / "key").read_text()))
    study_date = parse_date("20210314")
    assert study_date is not None
    moved = study_date + timedelta(days=key.date_shift_days("MRN4471902"))
    assert rows[None]["text"] == f"CT of {moved:%m/%d/%Y}, read by Dr. [NAME] for [ID] [NAME] and [NAME]-name [NAME]."
    audit = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert audit["quarantined"] == {"no_report": 1}
    assert audit["replacements"] == rows[None]["num_replacements"]
