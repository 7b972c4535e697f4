"""Where a finding is: side and zone words gathered into places, and each mention matched with its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from glint.prepare.sections.lexicon import load_lexicon

Span = tuple[int, int]
_ABBREVIATIONS = {
    "rul": ("right", "upper"),
    "rml": ("right", "middle"),
    "rll": ("right", "lower"),
    "lul": ("left", "upper"),
    "lll": ("left", "lower"),
}
_ABBREVIATION = re.compile(rf"\b(?:{'|'.join(_ABBREVIATIONS)})\b")
# The lobe says more than the segment: "lower lobe posterobasal segment" is lower.
_PRECEDENCE = ("lingula", "middle", "upper", "lower", "basal", "apical", "perihilar")
_AND = re.compile(r"[\s,/&+-]*(?:\b(?:and|or|as well as|and/or)\b)?[\s,]*(?:(?:in|at|of|on|the|within)\s+)*")
_NOT_ADJECTIVE = re.compile(
    r"[,.:;()?]|\b(?:and|or|nor|in|on|at|of|with|without|no|not|is|are|was|were|has|have|there|the|which|that|to|from|by"
    r"|for|adjacent|than|may|might|could|can|cannot|represent\w*|suggest\w*|likely|versus|vs|measur\w+|shows?)\b"
)
_VERB = re.compile(
    r"[.:;()]|\b(?:is|are|was|were|has|have|there|in|on|at|within|measur\w+|no|without|which|that|seen|observed)\b"
)


@dataclass(frozen=True)
class Place:
    """Side and zone named at `start:end`; null where unsaid."""

    start: int
    end: int
    laterality: str | None
    region: str | None


Chain = tuple[Place, ...]


def find_chains(text: str) -> list[Chain]:
    """Places of a lower-case sentence; places joined by "and" form one chain and lend each other what is unsaid."""
    groups = _groups(text)
    chains: list[list[Place]] = []
    for group in groups:
        gap = text[chains[-1][-1].end : group.start] if chains else ""
        if chains and _joins(gap):
            chains[-1].append(group)
        else:
            chains.append([group])
    return [_completed(text, chain) for chain in chains]


def place_mentions(text: str, mentions: Sequence[Span], clauses: Sequence[Span]) -> list[Chain]:
    """Chain of each mention (sorted by start), empty where the sentence names no place for it.

    Own words before the finding come first ("left lower lobe nodule"), then what follows it ("nodule in the left lower
    lobe"), then a place that opens the sentence ("On the left, a nodule"). Mentions joined by "and" share what follows.
    """
    chains = find_chains(text)
    if not chains:
        return [() for _ in mentions]
    before = [_chain_before(text, span, chains) for span in mentions]
    taken = {id(chain) for chain in before if chain}
    after: list[Chain] = []
    for i, (_, end) in enumerate(mentions):
        stop = mentions[i + 1][0] if i + 1 < len(mentions) else len(text)
        limit = next((b for a, b in clauses if a < end <= b), len(text))
        following = (c for c in chains if c[0].start >= end and c[-1].end <= min(stop, limit) and id(c) not in taken)
        after.append(next(following, ()))
    for i in range(len(mentions) - 2, -1, -1):
        joined = not after[i] and not before[i] and not before[i + 1]
        parted = any(mentions[i][1] <= start < mentions[i + 1][0] for start, _ in clauses)
        if joined and not parted and not _VERB.search(text[mentions[i][1] : mentions[i + 1][0]]):
            after[i] = after[i + 1]
    first = mentions[0][0] if mentions else 0
    opening = next((c for c in reversed(chains) if c[-1].end <= first and id(c) not in taken), ())
    return [_merged(own, then, opening) for own, then in zip(before, after, strict=True)]


def _groups(text: str) -> list[Place]:
    lexicon = load_lexicon()
    hits: list[Place] = []
    for match in lexicon.side_words.finditer(text):
        hits.append(Place(match.start(), match.end(), match.lastgroup, None))
    for match in lexicon.region_words.finditer(text):
        hits.append(Place(match.start(), match.end(), None, match.lastgroup))
    for match in _ABBREVIATION.finditer(text):
        hits.append(Place(match.start(), match.end(), *_ABBREVIATIONS[match.group()]))
    groups: list[Place] = []
    for hit in sorted(hits, key=lambda place: (place.start, place.end)):
        last = groups[-1] if groups else None
        clash = last and last.laterality and hit.laterality and last.laterality != hit.laterality
        if last and not clash and (hit.start < last.end or lexicon.place_words.fullmatch(text, last.end, hit.start)):
            groups[-1] = Place(
                last.start, max(last.end, hit.end), last.laterality or hit.laterality, _finer(last.region, hit.region)
            )
        else:
            groups.append(hit)
    return groups


def _finer(one: str | None, other: str | None) -> str | None:
    named = [region for region in (one, other) if region]
    return min(named, key=_PRECEDENCE.index) if named else None


def _joins(gap: str) -> bool:
    """Only "and", a comma or the like between place words: "lobe and in the"."""
    place_words = load_lexicon().place_words
    lead = place_words.match(gap)
    link = _AND.match(gap, lead.end() if lead else 0)
    return bool(link and place_words.fullmatch(gap, link.end())) and len(gap) < 60


def _completed(text: str, chain: list[Place]) -> Chain:
    """Lend sides forward then backward, zones to bare sides backward; fill in what a lobe's name implies."""
    places = list(chain)
    for i in range(1, len(places)):
        if places[i].laterality is None:
            places[i] = replace(places[i], laterality=places[i - 1].laterality)
    for i in range(len(places) - 2, -1, -1):
        here, after = places[i], places[i + 1]
        bare = here.region is None and text[here.end : after.start].strip() in ("and", "or", "/", "&")
        places[i] = replace(
            here, laterality=here.laterality or after.laterality, region=after.region if bare else here.region
        )
    return tuple(_implied(text, place) for place in places)


def _implied(text: str, place: Place) -> Place:
    if place.laterality is None and place.region == "lingula":
        return replace(place, laterality="left")
    if place.laterality is None and place.region == "middle" and re.match(r"\W*lobe\b", text[place.end :]):
        return replace(place, laterality="right")
    return place


def _chain_before(text: str, span: Span, chains: Sequence[Chain]) -> Chain:
    start, end = span
    for chain in reversed(chains):
        if chain[0].start >= end:
            continue
        if chain[-1].end > start or not _NOT_ADJECTIVE.search(text[chain[-1].end : start]):
            return chain
        return ()
    return ()


def _merged(own: Chain, then: Chain, opening: Chain) -> Chain:
    """`own` filled up from `then`, filled up from `opening`, where they do not contradict."""
    filled = own
    for more in (then, opening):
        if not filled:
            filled = more
        elif len(more) == 1:
            filled = tuple(_filled(place, more[0]) for place in filled)
    return filled


def _filled(place: Place, more: Place) -> Place:
    if place.laterality and more.laterality and place.laterality != more.laterality:
        return place
    if place.region and more.region and place.region != more.region:
        return place
    return replace(place, laterality=place.laterality or more.laterality, region=place.region or more.region)
