"""What looks like an identity without being known: phones, numbers, addresses, places, times, great ages."""

import re
from collections.abc import Iterator

from glint.prepare.deidentify.listed_names import listed_name_spans
from glint.prepare.deidentify.people import people_spans
from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import COMMON, GENERIC_PLACES, NEVER_NAMES

_NUMBER = r"(?:[:#.=]|\b(?:number|num|no|nr)\b\.?|\s|\bis\b)*"
_CODE = r"(?P<hit>[a-z]{0,6}[-./]?\d(?:[\w]|[-./](?=\w)|[ ](?=\d{3}(?:[ ]\d{3,4})?(?!\d|[./]\d)))*)"
_STREETS = r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|way|place|pl|terrace|square|sq|parkway|pkwy|circle|highway|hwy|(?-i:[Pp]arade|PARADE|(?:Gardens?|Crescent|Cres|Grove|Mews|Close|Trail|Row|Walk|Gate|Quay|Loop|Pike|Alley|Crossing|Ridge|Path|Rise|Terr|Heights|Wharf|Bend|Point|Park|Hill|View|Run|Cove|Landing|Meadows?|Esplanade|Promenade)|GARDENS|CRESCENT|GROVE|MEWS|CLOSE|TRAIL|TERRACE|QUAY|ALLEY))\b\.?"
_TOWN = r"(?:,?\s+(?-i:[A-Z][\w.]+(?:\s[A-Z][\w.]+){0,2}),?\s+(?-i:[A-Z]{2})\s+\d{5}(?:-\d{4})?|,?\s+(?-i:[A-Z]\w+)\s+(?-i:[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}))"
_ABROAD = (
    r"(?-i:[Rr]ue|RUE|[Aa]venue|AVENUE|[Bb]oulevard|[Pp]lace|[Cc]hemin|[Ii]mpasse|[Qq]uai|[Aa]llée|[Rr]oute|Via|VIA|Viale|Piazza|Corso|Vicolo|Calle|CALLE|Avenida|Avda\.?|Carrer|Rua|Plaza|Paseo|Chaussée|[Uu]lica|ul\.|Straat)"
    r"(?:[ \t]+(?:d[eu']|del|della|di|des|la|le|las|los|l'))*(?:[ \t]*(?-i:[A-ZÀ-Ž][\w'’-]+)){1,3}"
)
_FLAT = r"(?:,?\s+(?:apt|apartment|suite|unit|flat|#)\.?\s*\w{1,5})"
_DWELLING = (  # whatever kind of street it is, after these a number and a name are an address
    r"(?:liv(?:e[sd]?|ing)|resid(?:es?|ed|ing|ence)|dwell(?:s|ing)?|stay(?:s|ed|ing)?|mov(?:ed|ing)|address|mail(?:ed|ing)?|deliver(?:ed|y)?|home|discharged|returned|house|domiciled)\b"
    r"(?:[ \t,]+(?-i:[a-z]{2,9})){0,5}[ \t]*[:,]?[ \t]*"
)
_FLAT_FIRST = r"(?:flat|apt|apartment|unit|suite|house)\.?[ \t]*\w{1,5},?[ \t]+"
_CAPITALISED = r"(?-i:(?!(?:No|The|There|In|On|An|This|Patient|Heart|Lungs?|Bone|[A-Z]{4,}:)\b)[A-ZÀ-Ž][\w'’-]+)"
_NUMBER_FIRST = rf"\d{{1,5}}[a-z]?,?[ \t]+(?:(?-i:[a-zé]{{3,9}})[ \t]+(?:(?-i:d[eu]|des|de la)[ \t]+|d['’])?)?{_CAPITALISED}(?:[ \t]+{_CAPITALISED}){{0,3}}"
_NAME_FIRST = rf"{_CAPITALISED}(?:[ \t]+(?:{_CAPITALISED}|(?-i:de|del|di|van|der|la))){{0,3}},?[ \t]+\d{{1,4}}[a-z]?(?:[-/]\d{{1,4}})*"
_REST = r"(?:,?[ \t]+(?:apt|apartment|suite|unit|flat|#)\.?[ \t]*\w{1,5})?(?:,[ \t]+(?:\d{4,5}[ \t]+)?(?-i:[A-ZÀ-Ž][\w'’-]+)(?:[ \t]+(?-i:[A-Z0-9][\w'’-]*)){0,3}){0,3}"
PLAIN = (
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[EMAIL]"),
    ("url", r"\b(?:https?://|ftp://|www\.)[^\s<>()]*[^\s<>().,;]", "[URL]"),
    (
        "url",
        r"(?<![\w@.-])(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov|info|uk|local)\b(?:/[^\s<>()]*[^\s<>().,;])?",
        "[URL]",
    ),
    ("url", r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\d.]*\d)", "[URL]"),
    ("id", r"(?<![\d.])\d+(?:\.\d+){5,}(?![\d.]*\d)", "[UID]"),
    ("id", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", "[ID]"),
    (
        "id",
        r"\b(?:mrn?|med(?:ical)?\.? rec(?:ord)?|chart|hosp(?:ital)?|unit|report|requisition|study id|study|file|patient id|patient|pt\.? id|pt|acc(?:ession)?|acct|account|"
        r"case|exam|visit|encounter|order|specimen|policy|npi|serial|s/n|nhs|chi|ssn|social security|id|episode|record|"
        rf"uhid|registration|licen[cs]e)\b(?P<mark>{_NUMBER}){_CODE}\b",
        "[ID]",
    ),
    (
        "id",
        r"(?:\b(?:number|identifier|reference|ref|ident|code|id|ticket|barcode|passport|insurance|medicare|medicaid|dl|license|licence)\b\.?|\bno\.|\bnr\.?|#)"
        r"[ \t]*(?:is|was|of|:|=|#|[ \t])*[ \t]*(?P<hit>(?=[a-z./-]*(?:\d[a-z./ -]?){4})[a-z]{0,6}[-./]?\d\w*(?:[-./]\w+)*(?:[ ]\d{3,4}(?![./\d])){0,3})(?![\w/])(?![ \t]*(?:mm|cm|hu|ml)\b)",
        "[ID]",
    ),
    ("id", r"(?<![\w.])(?=[a-z]*\d)[a-z]{0,5}-?\d{6,}(?![\w]|\.\d)", "[ID]"),
    ("id", r"(?<![\w.-])(?-i:[A-Z]{1,4})-?\d{2}-\d{4,7}(?![\w-])", "[ID]"),
    (
        "phone",
        r"(?<![\w.])(?:(?:\+\d{1,3}|1)[\s.-]?)?(?:\(\d{2,4}\)[\s.-]?|\d{3}[\s./-])\d{3}[\s.-]\d{4}(?!\d)"
        r"(?:,?\s*(?:x|ext\.?|extension)\s*\d{2,6})?",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.])(?:\+|00)\d{1,3}[ ./-]{0,2}(?:\(0\))?(?:[ ./-]{0,2}\(?\d\)?){6,13}(?!\w)", "[PHONE]"),
    ("phone", r"(?<![\w.,/-])\(?0\d{1,5}\)?(?=(?:[ ./-]?\d){5,11}(?!\w|[.]\d))(?:[ ./-]\d{2,}){1,5}", "[PHONE]"),
    ("phone", r"(?<![\w.])\+\d{1,3}(?:[\s.-]?\(?\d{2,4}\)?){3,5}(?!\d)", "[PHONE]"),
    ("phone", r"(?<![\w.-])\(?0\d{2,4}\)?[\s/-]\d{3,4}[\s-]?\d{3,4}(?!\d|[.]\d)", "[PHONE]"),
    (
        "phone",
        r"\b(?:phone|tel|telephone|pager|page|beeper|fax|ext|extension|mobile|bleep|cell)\b(?:[\s.:#]|\b(?:number|no|at)\b)*"
        r"(?P<hit>\d[\d\s.-]{2,}\d)",
        "[PHONE]",
    ),
    (
        "phone",
        r"\b(?:call(?:ed|back)?|dial|ring|line|reach(?:ed|able)?|contact(?:able)?|number|text(?:ed)?|voicemail|switchboard|desk|hotline|whatsapp|extn?|x|bleep(?:ed)?|paged?|pager|beeper|phoned|tel)\b[ \t]*"
        r"(?:(?:is|at|on|via|under|by|of|no|number|me|us|back|him|her|them|extension|ext|pager|bleep|the|using|through|for|questions)\b[ \t]*|[.:#,][ \t]*){0,5}"
        r"(?P<hit>\+?\(?\d{2,5}\)?(?:[ ./-]{1,2}\(?\d{2,5}\)?){1,5}|\d{4,12})(?![\w:%]|[./,-]\d|[ \t]*(?:mm|cm|hu|ml|cc|hrs?|hours|h|am|pm)\b)",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.-])\d{3}-\d{4}(?![\w-]|\s*(?:hu|mm|ml|cc))", "[PHONE]"),
    (
        "address",
        rf"\b\d{{1,5}}[a-z]?[ \t]+(?:(?:[nsew]|north|south|east|west)\b\.?[ \t]+)?(?:\d{{1,3}}(?:st|nd|rd|th)[ \t]+|(?-i:[A-Z][\w'’]+[ \t]+)){{1,3}}{_STREETS}{_FLAT}?{_TOWN}?",
        "[ADDRESS]",
    ),
    ("address", rf"\b(?:p\.?\s?o\.?\s+box\s+\d+|(?-i:Box|BOX)\s+\d{{2,}}){_TOWN}?", "[ADDRESS]"),
    (
        "address",
        r"\b(?-i:[A-ZÄÖÜ])[\w-]*(?:straße|strasse|str\.|weg|gasse|platz|allee|ring|damm|ufer|steig|markt|chaussee|straat|laan|gracht|gatan|vägen|vej|veien|katu|utca|ulice)\s+\d{1,4}[a-z]?(?:[-/]\d{1,4})*\b",
        "[ADDRESS]",
    ),
    ("address", rf"\b{_ABROAD},?[ \t]+\d{{1,4}}[a-z]?\b|\b\d{{1,4}}[a-z]?,?[ \t]+(?:bis[ \t]+)?{_ABROAD}", "[ADDRESS]"),
    (
        "address",
        rf"\b{_DWELLING}(?P<hit>(?:{_FLAT_FIRST})?(?:{_NUMBER_FIRST}|{_NAME_FIRST}){_REST}(?!\w))",
        "[ADDRESS]",
    ),
    ("address", rf"\b{_NUMBER_FIRST},?[ \t]+(?:apt|apartment|suite|unit|flat)\.?[ \t]*#?\d\w{{0,4}}\b", "[ADDRESS]"),
    ("address", r"(?<![\w-])(?-i:(?:[A-Z]{1,2}\d{1,2}[A-Z]?[ \t]\d[A-Z]{2}))(?![\w-])", "[ADDRESS]"),
    ("address", r"\b(?-i:[A-Z]\w+(?:\s[A-Z]\w+)?),?\s+(?-i:[A-Z]{2})\s+\d{5}(?:-\d{4})?\b", "[ADDRESS]"),
    (
        "time",
        r"(?:(?<=\d)t)?(?<![\d:.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:\.\d+)?(?:\s*(?:[ap]m|hrs|hours|h|z|noon)\b|\s*[ap]\.m\.)?(?![\d:])",
        "[TIME]",
    ),
    ("time", r"(?<![\d:.])(?:0?\d|1[0-2])(?:\.[0-5]\d)?\s*(?:[ap]m\b|[ap]\.m\.)", "[TIME]"),
    ("time", r"(?<!\d)(?:[01]\d|2[0-3])[0-5]\d\s*(?:hrs?|hours|h)\b", "[TIME]"),
    ("time", r"(?<!\d)(?:[01]?\d|2[0-3])h[0-5]\d\b", "[TIME]"),
    ("time", r"(?<!\d)(?<!the )(?:[1-9]|1[0-2])\s?o['’]clock\b(?!\s*(?:position|location|axis|radian))", "[TIME]"),
    (
        "age",
        r"(?<![\d.])(?P<hit>9\d|1[01]\d)(?=[\s-]*(?:years?|yrs?|y/?\.?o)\b)|(?:\bage[d:]?|\bage\s*[:=])\s*(?P<stated>9\d|1[01]\d)(?![\d.]|\s*(?:mm|cm))",
        "90",
    ),
)
_PLAIN = tuple((kind, re.compile(pattern, re.IGNORECASE), replacement) for kind, pattern, replacement in PLAIN)
_PLACE = re.compile(
    r"(?<!\w)(?:(?:[A-Z][\w'’-]*|(?:[A-Z]|S[Tt]|M[Tt])\.|of|and|de)[ \t]+){1,5}"
    r"(?P<kind>(?i:hospitals?|medical\s+cent(?:er|re)|clinic|infirmary|health\s?care|diagnostic\s+imaging|imaging(?=[ \t]*(?:[.,;:)\n]|$))|imaging\s+(?:associates|cent(?:er|re)|group|services|partners|specialists|institute)|hospice|sanatorium|diagnostics|radiology\s+(?:associates|group|partners|cent(?:er|re)|consultants|specialists)|"
    r"(?:cancer|heart|cardiac|trauma|health|surgery|surgical|treatment|rehabilitation|rehab|children['’]s|women['’]s|veterans|outpatient|wellness)\s+(?:cent(?:er|re)|institute|hospital|campus)|institute|university|polyclinic|"
    r"nursing\s+home|care\s+home|health\s+system|health\s+network|medical\s+(?:group|college|school|campus|associates|practice)|health\s+(?:board|trust)|nhs\s+(?:foundation\s+)?trust|urgent\s+care|surgery\s+cent(?:er|re)|clinics|klinikum|krankenhaus|spital)\b"
    r"(?:[ \t]+(?i:associates|system|trust|group)\b)?)"
)
_PROTECTED = re.compile(
    r"\b(?:[TD](?:[1-9]|1[0-3])|C[1-8]|L[1-6]|S[1-5])(?:[ \t]?[-/–][ \t]?[CTLSD]?\d{1,2})?\b(?!:|-\d{3})"
    r"|\bserial:[ \t]*\d{1,4}\b(?=.{0,12}\bima?ge?)"
    r"|\b(?:series|se|image|images|im|img|slice|slices|frame|station)\.?[ \t]*(?:number|no\.?|#)?[ \t]*\d+(?![\d]*[ -]year)(?:[ \t]*(?:[-,/]|and|to)[ \t]*\d+)*"
    r"|\b\d+(?:\.\d+)?(?:[ \t]*(?:x|×|by|to|-)[ \t]*\d+(?:\.\d+)?){0,2}[ \t]*(?:mm|cm|ml|cc|hu|mgy|msv|kvp?|mas?|mg|%)(?![a-z]|[ \t]*:)"
    r"|\b(?:lung|bi|co|cad|ti|li|pi)-?rads[ \t]*(?:category[ \t]*)?\d\w?"
    r"|\bp?T(?:is|[0-4][a-c]?)[ \t]?N[0-3x][a-c]?(?:[ \t]?M[01x][a-c]?)?\b",
    re.IGNORECASE,
)


_PLACE_ABROAD = re.compile(
    r"\b(?:(?:(?i:hospital|h[oô]pital|klinikum|klinik|clinique)|H[oô]pital|[Cc]linique|[Cc]l[ií]nica|Ospedale|Policlinico|Klinik(?:um)?|Krankenhaus|Universit(?:ätsklinikum|y Hospitals?|y of)|CHU|Szpital|Ziekenhuis|Institut[eo]?|Centro M[eé]dico)"
    r"(?:[ \t]+(?:de[l]?|d[iu]|della|des|la|las|los|of|für|am|im|zum|der|San(?:ta|to)?|Saint[e]?|St\.?|Sankt))*[ \t]+[A-ZÀ-Ž][\w'’-]+(?:[ \t-]+[A-ZÀ-Ž][\w'’-]+){0,2})"
)


def _is_number_of_record(match: re.Match[str]) -> bool:
    """True for at least three digits, four after a word that also counts things ("case 12", "patient 100")."""
    digits = sum(character.isdigit() for character in match["hit"])
    return digits >= 3 and (digits >= 4 or not match["mark"].isspace()) and match["mark"] != ""


def _places(text: str) -> Iterator[Span]:
    """Hospitals and clinics with a name of their own; the words before it that are no name stay."""
    for match in _PLACE.finditer(text):
        start = match.start()
        words = list(re.finditer(r"[^\s]+", text[match.start() : match.start("kind")]))
        for number, word in enumerate(words):
            lower = word[0].strip(".,").lower()
            if lower in NEVER_NAMES - {"general", "critical", "primary"}:
                following = (
                    words[number + 1].start() if number + 1 < len(words) else match.start("kind") - match.start()
                )
                start = match.start() + following
        own = re.findall(r"[^\W\d_]{2,}", text[start : match.start("kind")])
        if any(word.lower() not in COMMON | GENERIC_PLACES | NEVER_NAMES for word in own):
            yield Span(start, match.end(), "institution", "[INSTITUTION]")


def _places_abroad(text: str) -> Iterator[Span]:
    """Hospitals whose kind stands before their name."""
    for match in _PLACE_ABROAD.finditer(text):
        own = re.findall(r"[^\W\d_]{2,}", match[0])[1:]
        if any(word.lower() not in COMMON | GENERIC_PLACES | NEVER_NAMES for word in own if word[0].isupper()):
            yield Span(match.start(), match.end(), "institution", "[INSTITUTION]")


_CODE_TOKEN = re.compile(r"(?<![\w./:-])(?:[A-Z]{1,6}[-./]?)?\d[A-Za-z0-9]*(?:[-./][A-Za-z0-9]+)*(?![\w:])")
_NO_CODE = re.compile(
    r"[-+]?\d+(?:[.,/]\d+)?(?:[-x/][-+]?\d+(?:\.\d+)?)*(?:[a-z]{1,3}\d?)?|[A-Z]\d{1,2}(?:[-/][A-Z]?\d{1,2})*|\d+(?:\.\d+)+|(?:\d+\.?\d*x)+\d+\.?\d*[a-z]*",
    re.IGNORECASE,
)
CODE_DIGITS = 5


def _codes(text: str) -> Iterator[Span]:
    """Letters and digits in one token with five digits or more: no measure, range, vertebra or version looks so."""
    for match in _CODE_TOKEN.finditer(text):
        digits = sum(map(str.isdigit, match[0]))
        grouped = re.fullmatch(r"\d{2,4}(?:[-/.]\d{2,6}){1,3}", match[0]) and digits >= 7 and "." not in match[0][:2]
        ranged = re.fullmatch(r"\d{1,4}-\d{1,4}", match[0])
        if digits >= CODE_DIGITS and not ranged and (grouped or not _NO_CODE.fullmatch(match[0])):
            yield Span(match.start(), match.end(), "id", "[ID]")


def protected_spans(text: str) -> list[Span]:
    """Clinical tokens that look like identifiers: vertebrae, image references, measures, scores, TNM stages."""
    return [Span(match.start(), match.end(), "clinical", match[0]) for match in _PROTECTED.finditer(text)]


def _by_form(text: str, protected: list[Span]) -> Iterator[Span]:
    for kind, pattern, replacement in _PLAIN:
        for match in pattern.finditer(text):
            group = next((name for name in ("hit", "stated") if match.groupdict().get(name)), 0)
            if "mark" in pattern.groupindex and not _is_number_of_record(match):
                continue
            span = Span(match.start(group), match.end(group), kind, replacement)
            if not any(span.overlaps(other) for other in protected):
                yield span


def pattern_spans(text: str) -> Iterator[Span]:
    """People by title or label, then numbers, addresses and times by their form; clinical tokens are left alone."""
    yield from people_spans(text)
    yield from listed_name_spans(text)
    yield from _places(text)
    yield from _places_abroad(text)
    protected = protected_spans(text)
    formed = list(_by_form(text, protected))
    yield from formed
    for code in _codes(text):
        inside = any(span.start <= code.start and code.end <= span.end for span in formed)
        if not inside and not any(code.overlaps(span) for span in protected):
            yield code
