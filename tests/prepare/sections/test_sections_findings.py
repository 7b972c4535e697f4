"""Hand-written sentences and what they state: + present, - absent, ? uncertain; L, R, B sides; then the region."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import glint.prepare.sections.findings as findings_module
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.lexicon import literal_hints, load_lexicon
from glint.prepare.sections.spelling import corrected, within_one_slip

SIDE = {"left": "L", "right": "R", "bilateral": "B", None: ""}
SIGN = {"present": "+", "absent": "-", "uncertain": "?"}

TABLE = [
    # denial before, over lists
    ("No effusion, consolidation or pneumothorax.", "-pleural_effusion -consolidation -pneumothorax"),
    ("There is no pleural effusion or pneumothorax.", "-pleural_effusion -pneumothorax"),
    ("No evidence of consolidation, atelectasis, or nodule.", "-consolidation -atelectasis -nodule"),
    ("Negative for pneumothorax.", "-pneumothorax"),
    ("The lungs are free of consolidation.", "-consolidation"),
    ("No focal consolidation is seen.", "-consolidation"),
    ("Without pleural effusion.", "-pleural_effusion"),
    ("No pericardial or pleural effusion.", "-pleural_effusion -pericardial_effusion"),
    ("Neither consolidation nor effusion.", "-consolidation -pleural_effusion"),
    ("No findings consistent with pneumonia.", "-pneumonia"),
    ("No opacity suspicious for consolidation.", "-lung_opacity -consolidation"),
    # denial after
    ("Pleural effusion was not observed.", "-pleural_effusion"),
    ("Pericardial effusion-thickening was not detected.", "-pericardial_effusion"),
    ("Pneumothorax is absent.", "-pneumothorax"),
    ("Pneumothorax is no longer seen.", "-pneumothorax"),
    ("The right pleural effusion has resolved.", "-pleural_effusion:R"),
    ("Nodules have not been identified.", "-nodule"),
    ("Pneumothorax: none.", "-pneumothorax"),
    ("Atelectasis is seen in the left lower lobe and pleural effusion was not observed.",
     "+atelectasis:L:lower -pleural_effusion"),
    # where denial ends
    ("No pneumothorax, but small left pleural effusion.", "-pneumothorax +pleural_effusion:L"),
    ("No consolidation; mild bibasilar atelectasis.", "-consolidation +atelectasis:B:basal"),
    ("No pleural effusion; there is a right lower lobe nodule.", "-pleural_effusion +nodule:R:lower"),
    ("Right lower lobe consolidation without effusion.", "+consolidation:R:lower -pleural_effusion"),
    ("No pneumothorax, small right pleural effusion.", "-pneumothorax +pleural_effusion:R"),
    ("There is no effusion and there is a left upper lobe mass.", "-pleural_effusion +mass:L:upper"),
    ("Left lower lobe consolidation; pleural effusion was not observed.", "+consolidation:L:lower -pleural_effusion"),
    ("Except for mild emphysema, no nodule.", "+emphysema -nodule"),
    ("No consolidation however ground-glass opacity is present in the right upper lobe.",
     "-consolidation +ground_glass_opacity:R:upper"),
    # words that look like denial
    ("No significant change in the right pleural effusion.", "+pleural_effusion:R"),
    ("The left pleural effusion is not significantly changed.", "+pleural_effusion:L"),
    ("Not only consolidation but also atelectasis in the left lower lobe.", "+consolidation +atelectasis:L:lower"),
    ("Evaluated without contrast; pleural effusion on the left.", "+pleural_effusion:L"),
    ("Nonspecific nodule in the lingula.", "+nodule:L:lingula"),
    ("No new nodule.", ""),
    ("No other nodules.", ""),
    # doubt
    ("Possible consolidation in the right lower lobe.", "?consolidation:R:lower"),
    ("Probable left pleural effusion.", "?pleural_effusion:L"),
    ("Findings are suspicious for a mass in the right upper lobe.", "?mass:R:upper"),
    ("Right middle lobe atelectasis cannot be excluded.", "?atelectasis:R:middle"),
    ("A small pneumothorax is not excluded.", "?pneumothorax"),
    ("Opacity in the left lower lobe may represent atelectasis.", "+lung_opacity:L:lower ?atelectasis"),
    ("Atelectasis versus consolidation in the left lower lobe.", "?atelectasis:L:lower ?consolidation:L:lower"),
    ("Atelectasis or consolidation in the right base.", "?atelectasis:R:basal ?consolidation:R:basal"),
    ("Cardiomegaly is suspected.", "?cardiomegaly"),
    ("Questionable hiatal hernia.", "?hiatal_hernia"),
    ("Pneumonia?", "?pneumonia"),
    ("Could represent pulmonary edema.", "?pulmonary_edema"),
    ("Consolidation compatible with pneumonia.", "+consolidation +pneumonia"),
    ("Possible atelectasis and consolidation.", "?atelectasis ?consolidation"),
    ("Probable atelectasis and left pleural effusion.", "?atelectasis ?pleural_effusion:L"),
    ("Possible atelectasis and small pleural effusion.", "?atelectasis +pleural_effusion"),
    ("Possible atelectasis, cardiomegaly.", "?atelectasis +cardiomegaly"),
    ("This does not look like consolidation.", "-consolidation"),
    ("There does not appear to be a pneumothorax.", "-pneumothorax"),
    # sides and regions
    ("There is a 12 mm nodule in the right upper lobe.", "+nodule:R:upper"),
    ("Left lower lobe consolidation.", "+consolidation:L:lower"),
    ("Nodules in the right upper lobe and left lower lobe.", "+nodule:R:upper +nodule:L:lower"),
    ("Consolidation in the left upper and lower lobes.", "+consolidation:L:upper +consolidation:L:lower"),
    ("Small right pleural effusion and left lower lobe atelectasis.", "+pleural_effusion:R +atelectasis:L:lower"),
    ("Atelectasis and consolidation in the right lower lobe.", "+atelectasis:R:lower +consolidation:R:lower"),
    ("In the left lung, ground-glass opacities and consolidation are seen.",
     "+ground_glass_opacity:L +consolidation:L"),
    ("On the right, there is a moderate pneumothorax.", "+pneumothorax:R"),
    ("Bilateral pleural effusions.", "+pleural_effusion:B"),
    ("Ground-glass opacities in both lower lobes.", "+ground_glass_opacity:B:lower"),
    ("RUL nodule and LLL mass.", "+nodule:R:upper +mass:L:lower"),
    ("Middle lobe atelectasis.", "+atelectasis:R:middle"),
    ("A nodule in the apical segment of the upper lobe of the right lung.", "+nodule:R:upper"),
    ("Right and left lower lobe atelectasis.", "+atelectasis:R:lower +atelectasis:L:lower"),
    ("No pleural effusion on the left.", "-pleural_effusion:L"),
    ("Consolidation in the lower lobe of the left lung, adjacent to the left atrium.", "+consolidation:L:lower"),
    ("Cardiomegaly with bilateral pleural effusions.", "+cardiomegaly +pleural_effusion:B"),
    ("Left-sided pneumothorax.", "+pneumothorax:L"),
    ("Both lungs show emphysema.", "+emphysema:B"),
    ("No bilateral pleural effusion.", "-pleural_effusion:B"),
    ("Emphysema in the upper lobes.", "+emphysema:upper"),
    # the heart, said well
    ("Heart size is normal.", "-cardiomegaly"),
    ("The heart is larger than normal.", "+cardiomegaly"),
    ("The heart is not enlarged.", "-cardiomegaly"),
    ("Cardiothoracic index increased in favor of the heart.", "+cardiomegaly"),
    ("No cardiomegaly.", "-cardiomegaly"),
    ("The heart is at the upper limits of normal in size.", ""),
    ("The heart size is upper limits normal or mildly enlarged.", "+cardiomegaly"),
    ("Heart size is borderline enlarged.", "+cardiomegaly"),
    ("Heart size remains slightly large.", "+cardiomegaly"),
    ("The heart and the large vessels are opacified.", ""),
    # other organs, history, advice
    ("Nodule in the left thyroid lobe.", ""),
    ("In the right lobe of the thyroid gland, a hypodense nodule is observed.", ""),
    ("Mass in the liver.", ""),
    ("History of pneumothorax.", ""),
    ("CT is advised to exclude a mass.", ""),
    ("Pericardial effusion.", "+pericardial_effusion"),
    ("Lower lobe edema.", "+pulmonary_edema:lower"),
    ("Subcutaneous edema of the chest wall.", ""),
    ("Patient with cystic fibrosis.", ""),
    # slips of the keyboard
    ("Small right pleural efusion.", "+pleural_effusion:R"),
    ("No pnuemothorax.", "-pneumothorax"),
    ("Left lower lobe atelectassis.", "+atelectasis:L:lower"),
    ("Possibel consolidation in the lingula.", "?consolidation:L:lingula"),
    ("Mild emphysma.", "+emphysema"),
]  # fmt: skip


def shown(sentence: str) -> set[str]:
    parts = set()
    for found in read_findings(sentence):
        place = ":".join(part for part in (SIDE[found.laterality], found.region) if part)
        parts.add(f"{SIGN[found.polarity]}{found.finding}" + (f":{place}" if place else ""))
    return parts


@pytest.mark.parametrize(("sentence", "expected"), TABLE, ids=[sentence for sentence, _ in TABLE])
def test_a_sentence_states_what_a_reader_would_say(sentence, expected):
    assert shown(sentence) == set(expected.split())


def test_the_table_covers_every_polarity_and_side_at_length():
    assert len(TABLE) >= 60
    every = " ".join(expected for _, expected in TABLE)
    assert all(every.count(mark) >= 5 for mark in ("+", "-", "?", ":L", ":R", ":B"))


@pytest.mark.parametrize("sentence", [s for s, e in TABLE if ":L" in e or ":R" in e])
def test_swapping_left_and_right_in_the_words_swaps_them_in_the_statements(sentence):
    def swap(text: str, one: str, other: str) -> str:
        return text.replace(one, "\0").replace(other, one).replace("\0", other)

    if any(word in sentence for word in ("RUL", "LLL", "lingula", "Middle lobe", "atrium")):
        pytest.skip("names a lobe or organ that has one side only")
    words = swap(swap(sentence, "left", "right"), "Left", "Right")
    assert shown(words) == {swap(statement, ":L", ":R") for statement in shown(sentence)}


@pytest.mark.parametrize(
    ("sentence", "size_mm"),
    [
        ("A nodule of 7 mm in the right upper lobe.", 7.0),
        ("A 1.2 cm nodule.", 12.0),
        ("Nodule measuring 8 x 6 mm.", 8.0),
        ("A mass of 3,4x2,1 cm.", 34.0),
        ("Nodule in the left lung.", None),
    ],
)
def test_sizes_are_the_largest_diameter_in_mm(sentence, size_mm):
    assert [found.size_mm for found in read_findings(sentence)] == [size_mm]


def test_a_size_belongs_to_the_nearest_finding():
    sizes = {
        f.finding: f.size_mm for f in read_findings("A 9 mm nodule in the right lung and atelectasis on the left.")
    }
    assert sizes == {"nodule": 9.0, "atelectasis": None}


def test_spans_name_the_finding_in_the_words_of_the_report():
    for sentence, _ in TABLE:
        for found in read_findings(sentence):
            said = sentence[found.start : found.end].lower()
            assert said
            assert said.strip() == said
    found = read_findings("Small right\n  pleural efusion.")[0]
    assert "Small right\n  pleural efusion."[found.start : found.end] == "pleural efusion"


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_without_a_crash_and_spans_lie_inside(text):
    for found in read_findings(text):
        assert 0 <= found.start < found.end <= len(text)


@given(st.text(alphabet="aAİıßﬁé \n\t-1.x", max_size=60))
def test_spelling_repair_keeps_the_way_back_to_every_character(text):
    fixed, origin = corrected(text)
    assert len(fixed) == len(origin)
    assert origin == sorted(origin)
    assert all(0 <= i < len(text) for i in origin)


def edit_distance(one: str, other: str) -> int:
    """Optimal string alignment distance by the textbook table."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            steps = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                steps.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(steps)
    return table[len(one), len(other)]


@given(st.text(alphabet="ab", max_size=7), st.text(alphabet="ab", max_size=7))
def test_one_slip_is_edit_distance_of_at_most_one(one, other):
    assert within_one_slip(one, other) == (edit_distance(one, other) <= 1)


def test_the_ten_findings_of_the_demo_lead_the_lexicon_in_a_fixed_order():
    assert load_lexicon().findings[:10] == (
        "nodule", "mass", "consolidation", "ground_glass_opacity", "pleural_effusion",
        "pneumothorax", "emphysema", "atelectasis", "cardiomegaly", "hiatal_hernia",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Unchanged nodule in the left lung.", ["unchanged"]),
        ("The left pleural effusion is stable.", ["is stable"]),
        ("New nodule; emphysema in both lungs.", ["new", None]),
        ("Nodule in the left lung.", [None]),
        ("Again seen is a persistent right effusion.", ["again seen; persistent"]),
    ],
)
def test_words_that_compare_are_marked_on_the_findings_of_their_clause(sentence, words):
    assert [found.comparison for found in read_findings(sentence)] == words


def test_the_quick_look_for_pieces_hides_no_finding(monkeypatch):
    sentences = [sentence for sentence, _ in TABLE]
    quick = [read_findings.__wrapped__(sentence) for sentence in sentences]
    lexicon = load_lexicon()
    assert sum(words.hints is not None for words in lexicon.words) > 20
    thorough = replace(lexicon, words=tuple(replace(words, hints=None) for words in lexicon.words))
    monkeypatch.setattr(findings_module, "load_lexicon", lambda: thorough)
    assert quick == [read_findings.__wrapped__(sentence) for sentence in sentences]


@pytest.mark.parametrize(
    ("pattern", "hints"),
    [
        ("(?:pulmonary |lung )?nodules?", {"nodule"}),
        ("hazy (?:opacity|density)|ggos?", {"opacity", "density", "ggo"}),
        (r"clips|(?<!not )wir(?:e|ed)\b[^.;]{0,40}?seen+", {"clips", "seen"}),
        (r"stabili[sz]ation (?:device)*|x{2}yes", {"stabili", "yes"}),
        ("nodules?|(?:mass)?", None),
    ],
)
def test_every_match_of_a_pattern_holds_one_of_its_pieces(pattern, hints):
    assert literal_hints(pattern) == hints
