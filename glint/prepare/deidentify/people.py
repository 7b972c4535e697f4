"""People whose names nobody gave us: after a title, a label, a signature, a relative, before a degree."""

import re
from collections.abc import Iterator

from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import COMMON, CREDENTIALS, EPONYMS, NEVER_NAMES, PARTICLES, may_be_a_name

_TITLE = re.compile(
    r"\b(?:(?i:drs?|mrs|ms|mr|mx|miss|prof|professor|doctor|dame|rev|reverend|herr|frau|mme|señora?)\b\.?|Sir\b|(?:Nurse|NURSE|nurse|Sister)\b(?:\s(?i:practitioner)\b)?)"
    r"(?=\s|[A-Z])\s*(?:(?i:dr|prof)\.?\s+)?"
)
_ROLE = (
    r"attending|radiologist|resident|fellow|technologist|radiographer|operator|consultant|physician|provider|surgeon|"
    r"referr?er|clinician|nurse|author|reader|transcriptionist|gp|practitioner|sonographer|registrar"
)
# After these a capitalised word is a name, whatever else it may mean.
_SIGNED = re.compile(
    rf"\b(?:(?:{_ROLE}|signed|dictated|signature|copy to|cc)(?:\s+(?:name|{_ROLE}|doctor|by|md))?\s*[:=]\s*|"
    r"(?:dictated|signed|read|reported|interpreted|transcribed|typed|verified|approved|authored|finali[sz]ed|"
    r"requested|ordered|referred|prepared|attested|validated|electronically|scanned|released|acknowledged|taken|completed)\s+"
    r"(?:and\s+\w+\s+)?(?:electronically\s+)?by\s*:?\s*|signed,\s*|"
    r"(?:his|her|the|patient's|their)\s+(?:wife|husband|mother|father|daughter|son|sister|brother|partner|spouse|"
    r"carer|caregiver|guardian|niece|nephew|friend|neighbou?r|aunt|uncle)\s*,?\s+)|\bpt\.\s+|\b(?:patient )?name is\s+|/s/\s*|(?<![\w'])I,\s+(?=[^,\n]{2,40},)",
    re.IGNORECASE,
)
# After these stands a name or a department: one ordinary word alone is left.
_CALLED = re.compile(
    r"\b(?:(?:patient|name|pt|re|subject)(?:'s)?(?:\s+name)?\s*(?:[:=]|\s-)\s*|"
    r"(?:discussed|communicated|shared|reviewed|conveyed|relayed|phoned|called|telephoned|spoke|spoken|given|reported|"
    r"performed|discussion|message|left)(?:\s+[a-z]+){0,4}?\s+(?:with|to|by)\s+(?!(?:tele)?phone|pager|page\b|e-?mail)|"
    r"\b(?:wife|husband|mother|father|daughter|son|sister|brother|partner|carer|niece|nephew)\s*,?\s+|\bby:?\s+|"
    r"\b(?:contacted|reach|contact|notified|paged|informed)\s+)",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^[ \t]*[A-Z][A-Za-z./ -]{1,30}:[ \t]*", re.MULTILINE)
_LINE_ENDS = re.compile(r"[ \t.]*(?:\n|$)")
_IN_SENTENCE = re.compile(r"(?<=[a-z,(] )(?=(?:[A-Z]\.? )?[^\W\d_a-z][\w'’-]*[^\W\d_A-Z])")
_NAME_WORD = re.compile(r"[^\W\d_][^\W\d_]*(?:['’-][^\W\d_]+)*")
_SAINT = re.compile(r"St\.\s?(?=[A-Z])", re.IGNORECASE)
_LOWER_WORD = re.compile(r"[a-z'-]{3,}")
_COLON = re.compile(r"[ \t]*:")
_GAP = re.compile(r"[ \t]*\n?[ \t]*")
_GAP_WITH_COMMA = re.compile(r"[ \t]*,[ \t]*|[ \t]*\n?[ \t]*")
_INITIAL = re.compile(
    r"[A-Z]\.(?:-?[A-Z]\.)*(?=\s|[A-Z,]|$)|[A-Z](?=[ \t]+(?:[A-Z][\w'’]|(?:van|von|de|del|da|la|bin|ter|el|le)\b))"
)
_LAST_INITIAL = re.compile(
    r"[ \t]+[A-Z](?:\.|(?=[ \t]*(?:[,;.)\n]|$))|(?=[ \t]+(?:MD|DO|FRCR|RN|NP)\b)|(?=[ \t]+[a-z]))"
)
_CREDENTIALS = re.compile(CREDENTIALS)
_BEFORE_DEGREE = re.compile(
    r"(?:[^\W\d_a-z][\w'’-]*|[A-Z]\.)(?:,?[ \t]+(?:[^\W\d_a-z][\w'’-]*|[A-Z]\.)){0,3}(?=,?[ \t]+(?:M\.D\.|MD|D\.O\.|FRCR|FRCPC|RN|PA-C|MBBS|MBChB)(?!\w))"
)
_ENDS = re.compile(r"[ \t]*(?:[,;.()\n]|$)|[ \t]+[A-Z]\.?(?!\w)|[ \t]+(?P<word>[^\W\d_]+)")
_MASK = re.compile(r"[Xx]{3,}$")
LONGEST_RUN = 4
WRAPPED_LINE_CHARACTERS = 50  # a name goes on in the next line only where the line is full


def ends_like_a_name(text: str, position: int) -> bool:
    """True if a name may end at `position`: punctuation, the end of a line, or a word that is never a name."""
    match = _ENDS.match(text, position)
    if _CREDENTIALS.match(text, position):
        return True
    return match is not None and (
        match["word"] is None or match["word"].islower() or match["word"].lower() in NEVER_NAMES
    )


def _name_word(text: str, position: int, *, first: bool, capitals: bool, before_colon: bool) -> re.Match[str] | None:
    """A capitalised word or a particle that can belong to a name, not followed by a colon as headers are."""
    word = _NAME_WORD.match(text, position)
    if word is None or (not before_colon and _COLON.match(text, word.end())) or _MASK.match(word[0]):
        return None
    lower = word[0].lower()
    if lower in PARTICLES and (not first or re.match(r"\s+['’\w]", text[word.end() : word.end() + 2])):
        return word
    if not word[0][0].isupper() or lower in NEVER_NAMES:
        return None
    if not first and capitals and lower in COMMON and not ends_like_a_name(text, word.end()):
        return None  # in a line of capitals the sentence goes on
    return word


def _is_full_line(text: str, end: int) -> bool:
    return end - (text.rfind("\n", 0, end) + 1) >= WRAPPED_LINE_CHARACTERS


def run_of_names(text: str, start: int, *, before_colon: bool = False) -> tuple[int, list[str]]:
    """Where a run of name words from `start` ends (`start` itself if none begins there), its words and initials."""
    end, words, initials = start, list[str](), list[str]()
    capitals = comma = False
    while len(words) < LONGEST_RUN:
        gap = (_GAP if comma or len(words) != 1 else _GAP_WITH_COMMA).match(text, end) if end > start else None
        position = gap.end() if gap else end
        if "\n" in text[end:position] and (len(words) != 1 or comma or not _is_full_line(text, end)):
            break
        if initial := _INITIAL.match(text, position):
            end = initial.end()
            initials.append(initial[0] + ".")
            if comma:
                break  # "Family, Given M." is whole
            continue
        if saint := _SAINT.match(text, position):
            position = saint.end()
        with_comma = "," in text[end:position]
        word = _name_word(text, position, first=not words, capitals=capitals, before_colon=before_colon)
        if word is None or (words and word[0].isupper() and "\n" in text[end:position]):
            break  # capitals on the next line are a header, not a name
        if with_comma and not capitals and word[0].lower() in COMMON and not ends_like_a_name(text, word.end()):
            break
        comma = comma or with_comma
        if word[0].lower() not in PARTICLES:
            words.append(word[0])
            capitals = word[0].isupper() and len(word[0]) > 1
        end = word.end()
    if not words:
        return start, []
    if last := _LAST_INITIAL.match(text, end):
        end = last.end()
        initials.append(last[0])
    credentials = _CREDENTIALS.match(text, end)
    return (credentials.end() if credentials else end), words + initials


def _surely_people(text: str, end: int, words: list[str]) -> bool:
    """False for one ordinary word alone, or ordinary words in capitals: a department, a finding."""
    if any(word.lower() not in COMMON for word in words) or _CREDENTIALS.search(text[max(0, end - 6) : end]):
        return True
    return len(words) > 1 and (not words[0].isupper() or ends_like_a_name(text, end))


def _is_full_name(words: list[str]) -> bool:
    """Two words or more in mixed case, none of a finding or a department, one at least no ordinary word."""
    long = [word for word in words if len(word.rstrip(".")) > 1]
    lower = {word.lower() for word in long}
    if len(words) < 2 or not long or any(word.isupper() for word in long):
        return False
    return not lower & (EPONYMS | NEVER_NAMES) and any(may_be_a_name(word) for word in lower)


def _unannounced(text: str) -> Iterator[Span]:
    """Full names that fill a labelled line, or stand capitalised within a sentence."""
    for field in _FIELD.finditer(text):
        end, words = run_of_names(text, field.end())
        if end > field.end() and _is_full_name(words) and _LINE_ENDS.match(text, end):
            yield Span(field.end(), end, "name", "[NAME]")
    for start in _IN_SENTENCE.finditer(text):
        end, words = run_of_names(text, start.start())
        if end > start.start() and _is_full_name(words):
            yield Span(start.start(), end, "name", "[NAME]")


def people_spans(text: str) -> Iterator[Span]:
    """Names by the place they stand in; the title or label itself stays."""
    for title in _TITLE.finditer(text):
        end, words = run_of_names(text, title.end(), before_colon=True)
        if title[0].strip() == "MR" and words and words[0].lower() in COMMON:
            continue  # magnetic resonance
        lower = (
            _LOWER_WORD.match(text, title.end())
            if title[0][:1].islower() and title[0][0] != "n" and end == title.end()
            else None
        )
        if lower is not None and lower[0] not in NEVER_NAMES and not _MASK.match(lower[0]):
            end = lower.end()  # all in lower case: one word is taken
        if end > title.end():
            yield Span(title.end(), end, "name", "[NAME]")
    for pattern in (_SIGNED, _CALLED):
        for label in pattern.finditer(text):
            titled = _TITLE.match(text, label.end())
            start = titled.end() if titled else label.end()
            end, words = run_of_names(text, start)
            if end > start and (pattern is _SIGNED or _surely_people(text, end, words)):
                yield Span(start, end, "name", "[NAME]")
    yield from _unannounced(text)
    for before in _BEFORE_DEGREE.finditer(text):
        words = [word for word in re.findall(r"[\w'’-]+", before[0]) if len(word) > 1]
        if words and not any(word.lower() in NEVER_NAMES or _MASK.match(word) for word in words):
            yield Span(before.start(), before.end(), "name", "[NAME]")
