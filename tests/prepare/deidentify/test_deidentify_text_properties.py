"""What must hold for every report: offsets point at replacements, intervals survive, masked text stays, junk is refused."""

import re
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms
from glint.prepare.deidentify.readable import readable
from glint.prepare.deidentify.reports import clean_reports
from glint.prepare.deidentify.text import CleanText, KnownIdentity, clean_text
from glint.prepare.deidentify.written_dates import DateShift

NOBODY = KnownIdentity(persons=[], identifiers=[], institutions=[])
KNOWN = KnownIdentity(persons=["Marchbanks^Leontine^Q"], identifiers=["ZX-551234"], institutions=["Fernhill Hospital"])
PIECES = [
    "Leontine Marchbanks",
    "MARCHBANKS, L.",
    "Dr. Okafor",
    "zx551234",
    "14:30",
    "3/14/2019",
    "2018-01-03",
    "Fernhill Hospital",
    "a.b@c.org",
    "(555) 201-3344",
    "T4 vertebra",
    "a 4 mm nodule",
    "series 4, image 112",
    "signed by: Ada Nwosu, MD",
    "XXXX",
    "Kerley B lines",
    "\n",
    "MRN: 88123",
    "95-year-old",
    "12 Oak Lane",
    "é ü",
    ". ",
]


def shift_by(days: int, *, day_first: bool = False) -> DateShift:
    return DateShift(days=days, study_date=date(2019, 3, 14), birth_dates=frozenset(), day_first=day_first)


def clean(text: str, known: KnownIdentity = NOBODY, days: int = 70) -> CleanText:
    return clean_text(text, known, shift_by(days))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=8).map(" ".join))
def test_offsets_point_at_replacements_and_what_lies_between_is_untouched(text: str) -> None:
    result = clean(text, KNOWN)
    assert len(result.spans) == len(result.replaced)
    outside_before = outside_after = ""
    before = after = 0
    for old, new in zip(result.spans, result.replaced, strict=True):
        assert result.text[new.start : new.end] == new.replacement == old.replacement
        outside_before += text[before : old.start]
        outside_after += result.text[after : new.start]
        before, after = old.end, new.end
    assert outside_before + text[before:] == outside_after + result.text[after:]
    assert "archbank" not in result.text.lower() and "551234" not in result.text


FORMS = ("%Y-%m-%d", "%m/%d/%Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y", "%Y%m%d", "%b. %d %Y", "%Y %b %d", "%m / %d / %Y")
DAYS = st.dates(date(1990, 1, 1), date(2030, 1, 1))


def read(text: str, form: str) -> date:
    """A date in `form`; "May" may be short or long, so what follows from it may be either."""
    try:
        return datetime.strptime(text, form).date()
    except ValueError:
        return datetime.strptime(text, form.replace("%b", "%B")).date()


@settings(max_examples=150, deadline=None)
@given(DAYS, DAYS, st.sampled_from(FORMS), st.sampled_from(FORMS), st.integers(5, 520), st.booleans())
def test_the_interval_between_two_dates_and_their_weekdays_survive(
    first: date,
    second: date,
    form: str,
    other_form: str,
    weeks: int,
    back: bool,
) -> None:
    text = f"Seen {first.strftime(form)}; again seen {second.strftime(other_form)}; stable."
    result = clean(text, days=-7 * weeks if back else 7 * weeks)
    match = re.fullmatch(r"Seen (.+); again seen (.+); stable\.", result.text)
    assert match is not None
    moved = [read(match[1], form), read(match[2], other_form)]
    assert moved[1] - moved[0] == second - first
    assert moved[0] != first
    assert moved[0].weekday() == first.weekday()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("on 03.04.18 again", "on 05.13.18 again"),
        ("2018 Jan 3 film", "2018 Mar 14 film"),
        ("1/3/2018-1/5/2018", "3/14/2018-3/16/2018"),
        ("in 01/2018 and Jan '18", "in 03/2018 and Mar '18"),
        ("at 2018-01-03T14:30:00", "at 2018-03-14[TIME]"),
        ("Monday, March 5, was", "Monday, May 14, was"),
        ("on 13 / 14 / 2018", "on [DATE]"),
    ],
)
def test_more_ways_to_write_a_date(text: str, cleaned: str) -> None:
    assert clean(text).text == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Dr. Rose Small agreed", "Dr. [NAME] agreed"),
        ("Discussed with H. Love.", "Discussed with [NAME]."),
        ("Discussed with Oncology.",) * 2,
        ("went to see Babajide Okafor twice", "went to see [NAME] twice"),
        ("Staff: Ada Nwosu\nFINDINGS: Chest clear", "Staff: [NAME]\nFINDINGS: Chest clear"),
        ("question from Dr. Nwosu: nodule?", "question from Dr. [NAME]: nodule?"),
        ("seen in the Swan Ganz catheter",) * 2,
        ("CERVICAL MR TREATMENT",) * 2,
        ("his wife Hope was here", "his wife [NAME] was here"),
        ("Signed: Long, May T., MD", "Signed: [NAME]"),
        ("/s/ Rich, June W.", "/s/ [NAME]"),
        ("Patient Name - Bo Ek\nCough and fever", "Patient Name - [NAME]\nCough and fever"),
        ("Acc # S17-85960", "Acc # [ID]"),
        ("(MRN 132 591 385)", "(MRN [ID])"),
        ("call 1-339-951-4753 x22", "call [PHONE]"),
        ("at 3 o'clock, 0730h, 06h45", "at [TIME], [TIME], [TIME]"),
        ("the 3 o'clock position",) * 2,
        ("seen at viewer.north.org/s/2", "seen at [URL]"),
        ("14 N. Elm Way, Apt 2, Leeds LS1 4AP", "[ADDRESS]"),
        ("from St. Brannoc's Infirmary", "from [INSTITUTION]"),
        ("seen at the hospital", "seen at the hospital"),
        ("Age: 103, aged 94", "Age: 90, aged 90"),
        ("serial: 201 image: 92; case 12; order 4; S1-2",) * 2,
    ],
)
def test_more_identities_by_form_and_their_look_alikes(text: str, cleaned: str) -> None:
    assert clean(text).text == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Images were sent on to Maja Zoric for review.", "Images were sent on to [NAME] for review."),
        ("A copy went to ZORIC, MAJA yesterday.", "A copy went to [NAME] yesterday."),
        ("Overnight read: K. Nieminen\nClear.", "Overnight read: [NAME]\nClear."),
        ("The film of TENDAI MOYO is clear.", "The film of [NAME] is clear."),
        ("Handed over to Tendai Moyo on the ward.", "Handed over to [NAME] on the ward."),
        ("Checked with T. Moyo of the night team.", "Checked with [NAME] of the night team."),
        ("Next of kin: Tendai Moyo", "Next of kin: [NAME]"),
        # One rule alone finds each of these five.
        ("Interpreter J. Hall was present.", "Interpreter [NAME] was present."),
        ("We miss TENDAI MOYO today.", "We miss [NAME] today."),
        ("LUNGS CLEAR, MAJA ZORIC. NO EFFUSION.", "LUNGS CLEAR, [NAME]. NO EFFUSION."),
        ("Clear.\nT. Moyo\n", "Clear.\n[NAME]\n"),
        ("Overnight typist: TENDAI MOYO\nCLEAR LUNGS", "Overnight typist: [NAME]\nCLEAR LUNGS"),
        ("Hepatitis C. Emphysematous change.",) * 2,
        ("FINDINGS: BASILAR EMPHYSEMATOUS CHANGE. Heart is normal.",) * 2,
        ("Growth of S. pneumoniae and FDG PET uptake.",) * 2,
        ("A. Lungs: clear. B. Heart: normal.",) * 2,
        ("stored under 26-472275 and CR-1234-56789", "stored under [ID] and [ID]"),
        ("3.5x2.1x10.25 cm, -1000 to -1100 HU, T11-T12, 12000 cells",) * 2,
        ("lives alone at 9 Bray Shoal.", "lives alone at [ADDRESS]."),
        ("discharged home 3 days ago on 2 L of oxygen",) * 2,
        ("Residence: 27, avenue de Durand", "Residence: [ADDRESS]"),
        ("lives at Kensyplatz 88-56.", "lives at [ADDRESS]."),
        ("at 14 Oak Hollow Suite 3", "at [ADDRESS]"),
        ("use +49 (0) 9205 960708 or 05 64 19 87 31", "use [PHONE] or [PHONE]"),
        ("from Hôpital Saint-Bénigne and KLINIKUM OBERWALD", "from [INSTITUTION] and [INSTITUTION]"),
        ("at Fenwick Diagnostic Imaging last week", "at [INSTITUTION] last week"),
        ("compared with more remote outside imaging, if available",) * 2,
    ],
)
def test_what_nothing_announces_goes_by_what_it_is(text: str, cleaned: str) -> None:
    assert clean(text).text == cleaned


def test_a_day_without_a_year_never_stays_as_it_was() -> None:
    """Moved by 261 weeks, five years with two leap days, 5 March reads the same."""
    assert clean("on Monday, March 5.", days=1827).text == "on Monday, [DATE]."


def test_a_patient_named_like_an_eponym_goes_and_the_finding_stays() -> None:
    known = KnownIdentity(persons=["Hodgkin^Dorothea"], identifiers=["000526790"], institutions=[])
    text = "Ms. Hodgkin has Hodgkin lymphoma. Images of Hodgkin, D. (526790)."
    assert clean(text, known).text == "Ms. [NAME] has Hodgkin lymphoma. Images of [NAME] ([ID])."


@pytest.mark.parametrize(
    "text",
    [
        "Dr. XXXX was called at XXXX. XXXX XXXX-year-old. Dr. xxxx",
        "Dr. [NAME] on [DATE] at [TIME], MRN: [ID], pager [PHONE], [INSTITUTION], [ADDRESS], see [URL], [EMAIL]",
        "Dictated by: [NAME]\nA 90-year-old man. Discussed with Dr. ___ on ___.",
    ],
)
def test_masked_text_stays_as_it_is(text: str) -> None:
    assert clean(text, KNOWN).text == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\x00F\x00i\x00n\x00d\x00i\x00n\x00g\x00s", "not_text"),
        ("Findings: clear.".encode("utf-16").decode("latin-1"), "not_text"),
        (bytes(range(256)).decode("latin-1") * 20, "not_text"),
        ("Heart normal. " + "\ufffd" * 10, "not_text"),
        ("הלב תקין והריאות צלולות", "other_script"),
        ("القلب طبيعي CT", "other_script"),
        ("Сердце в норме", "other_script"),
        ("a" * 1_000_000, "too_long"),
    ],
)
def test_text_that_the_rules_cant_read_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Quarantine) as caught:
        readable(text)
    assert caught.value.reason == reason
    assert "Serdce" not in str(caught.value) and len(str(caught.value)) < 200


def test_invisible_characters_hide_no_name() -> None:
    hidden = "Mar\u200bch\u00adbanks and Marchba\u2060nks, \u202eLeontine\u202c"
    assert clean(readable(hidden), KNOWN).text == "[NAME] and [NAME]"
    decomposed = KnownIdentity(persons=["Núñez^Ada"], identifiers=[], institutions=[])
    assert clean(readable("seen: Nu\u0301n\u0303ez"), decomposed).text == "seen: [NAME]"


def test_one_long_line_is_done_in_a_moment() -> None:
    """200,000 characters, the most that is read: no rule may take time that grows with the square."""
    import time

    started = time.process_time()
    clean("The heart is normal in size and 12 mm nodule, " * 4300, KNOWN)
    assert time.process_time() - started < 10


def test_a_recognizer_only_adds_and_cant_take_clinical_words() -> None:
    text = "Uncued Babajide came. Kerley lines, T4, XXXX, 12 mm. Dr. Okafor."

    def greedy(_text: str) -> list[tuple[int, int, str]]:
        wanted = ("Babajide", "Kerley", "T4", "XXXX", "12 mm")
        return [(text.index(word), text.index(word) + len(word), "name") for word in wanted]

    cleaned = clean_text(text, NOBODY, shift_by(70), greedy)
    assert cleaned.text == "Uncued [NAME] came. Kerley lines, T4, XXXX, 12 mm. Dr. [NAME]."


def report_row(study_id: str, text: str) -> dict[str, object]:
    return {"study_id": study_id, "reason": None, "text": text, "identifiers": []}


def study_row(study_id: str) -> dict[str, object]:
    lists = ("patient_names", "other_persons", "identifiers", "institutions", "birth_dates", "study_dates")
    row: dict[str, object] = {name: [] for name in lists}
    texts = dict.fromkeys(("patient_key", "raw_patient_id", "accession", "study_uid"), f"k-{study_id}")
    return row | texts | {"study_id": study_id, "patient_names": ["Marchbanks^Leontine"]}


def test_a_shard_keeps_output_offsets_refuses_junk_and_holds_no_original_text() -> None:
    texts = {"s1": "Marchbanks seen by Dr. Okafor at 14:30.", "s2": "\x00C\x00T", "s3": "Сердце в норме"}
    done = clean_reports(
        pl.DataFrame([report_row(*item) for item in texts.items()], infer_schema_length=None),
        pl.DataFrame([study_row(name) for name in texts], infer_schema_length=None),
        pseudonyms=Pseudonyms(bytes(range(32))),
        config=DeidentifyConfig(),
        params_digest="p",
    )
    rows = {row["study_id"]: row for row in done.manifest.iter_rows(named=True)}
    assert rows["s1"]["text"] == "[NAME] seen by Dr. [NAME] at [TIME]."
    written = [rows["s1"]["text"][span["start"] : span["end"]] for span in rows["s1"]["replacements"]]
    assert written == ["[NAME]", "[NAME]", "[TIME]"]
    stood = [texts["s1"][row["start"] : row["end"]] for row in done.original_spans.iter_rows(named=True)]
    assert stood == ["Marchbanks", "Okafor", "14:30"]
    assert (rows["s2"]["reason"], rows["s3"]["reason"]) == ("not_text", "other_script")
    assert rows["s2"]["text"] is None and rows["s3"]["replacements"] is None
    assert not any(word in str(rows) + str(done.audit) for word in ("Marchbanks", "Okafor", "14:30"))
