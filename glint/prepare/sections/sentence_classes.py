"""Which sentences say the same: the pair relation that training learns from, over the identities of `sentence_identity`.

A *query* is one report sentence with its findings; a *study* is everything its report states. `pair_relations` puts
each (query, study) pair into one of four relations. A study that uses other words, or says more, is never a negative.

Relation of one statement of the query, "f at place q", to a study (the first row that holds wins; q is null if unsaid):

| query says  | study says                                                              | relation      |
|-------------|-------------------------------------------------------------------------|---------------|
| anything    | a sentence of the same normalised text                                  | POSITIVE      |
| f present   | f present at q, or with more detail (q null; bilateral when q is a side) | POSITIVE      |
|             | no f at a named place that holds q                                      | HARD_NEGATIVE |
|             | f present with less detail or in another region; f uncertain there      | IGNORE        |
|             | no f at all                                                             | HARD_NEGATIVE |
|             | f present on the other side only                                        | HARD_NEGATIVE |
|             | f uncertain on the other side only                                      | IGNORE        |
|             | nothing of f                                                            | NEGATIVE      |
| f absent    | f present inside q                                                      | HARD_NEGATIVE |
|             | f present or uncertain where q can't be decided                         | IGNORE        |
|             | no f, at a place that holds q                                           | POSITIVE      |
|             | nothing of f (most silent studies do lack it)                           | IGNORE        |
| f uncertain | f uncertain at q, or with more detail                                   | POSITIVE      |
|             | f present or uncertain elsewhere                                        | IGNORE        |
|             | no f at a place that holds q                                            | HARD_NEGATIVE |
|             | nothing of f                                                            | NEGATIVE      |

A query of several statements: HARD_NEGATIVE if any statement is, POSITIVE or NEGATIVE if all are, else IGNORE.
A query without a finding is not usable: its row is IGNORE throughout.

Findings nest (lexicon key `parent`): "consolidation" also states "lung opacity"; "no lung opacity" also states "no
consolidation"; "lung opacity" leaves consolidation uncertain.

Use::

    studies = StudyStatements.from_tables(sentences, findings, study_ids)     # whole split, once; row b = study_ids[b]
    queries = SentenceQueries.from_tables(sentences, findings, study_ids)     # one row per sentence of those studies
    rows = queries.unique(rows_of_the_batch)                                  # one query per sentence class
    relation_TB = pair_relations(queries.take(rows), studies.take(study_rows))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from glint.core.errors import InputError
from glint.prepare.sections.lexicon import load_lexicon

POSITIVE, NEGATIVE, HARD_NEGATIVE, IGNORE = 1, 0, 2, -1
POLARITIES = ("present", "absent", "uncertain")
LATERALITIES = (None, "left", "right", "bilateral")
_SLOTS = 16  # regions per laterality: 4 * 16 places fit one uint64

IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StudyStatements:
    """What each study's report states, as bit sets of places; row b is one study.

    present, absent, uncertain: (B, F) uint64, bit `16 * laterality + region` set where the report says so.
    class_ids: uint64 sentence classes of study b at `class_ids[offsets[b]:offsets[b + 1]]`.
    """

    present: BitArray
    absent: BitArray
    uncertain: BitArray
    class_ids: BitArray
    offsets: IntArray

    @classmethod
    def from_tables(cls, sentences: pl.DataFrame, findings: pl.DataFrame, study_ids: Sequence[str]) -> StudyStatements:
        """Gather the stage's `sentences` and `findings` tables; rows of other studies are left out.

        Raises InputError for a finding, polarity, laterality or region that the lexicon does not name.
        """
        row_of = {study_id: row for row, study_id in enumerate(study_ids)}
        ours = pl.col("study_id").is_in(list(row_of))
        codes = _encode(findings.filter(ours), row_of)
        stated = np.zeros((3, len(row_of), len(load_lexicon().findings)), np.uint64)
        bits = np.uint64(1) << codes.place.astype(np.uint64)
        np.bitwise_or.at(stated, (codes.polarity, codes.study, codes.finding), bits)
        present, absent, uncertain = _nest(_join_sides(stated))
        kept = sentences.filter(ours).select("study_id", "sentence_class").unique(maintain_order=True)
        study = np.array([row_of[s] for s in kept["study_id"]], np.int64)
        order = np.argsort(study, kind="stable")
        class_ids = np.array([int(c, 16) for c in kept["sentence_class"]], np.uint64)[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(study, minlength=len(row_of)))]).astype(np.int64)
        return cls(present=present, absent=absent, uncertain=uncertain, class_ids=class_ids, offsets=offsets)

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: Sequence[int] | IntArray) -> StudyStatements:
        """The studies of a batch, in the order given."""
        index = np.asarray(rows, np.int64)
        picked, offsets = _ragged(self.offsets, index)
        return StudyStatements(
            present=self.present[index],
            absent=self.absent[index],
            uncertain=self.uncertain[index],
            class_ids=self.class_ids[picked],
            offsets=offsets,
        )


@dataclass(frozen=True, kw_only=True)
class SentenceQueries:
    """Sentences as queries, one row each; row t states `offsets[t]:offsets[t + 1]` of finding, polarity and place.

    `study` is the row in the `study_ids` the tables were gathered with; `usable` marks sentences that state a finding.
    """

    texts: tuple[str, ...]
    study: IntArray
    class_id: BitArray
    offsets: IntArray
    finding: IntArray
    polarity: IntArray
    place: IntArray

    @classmethod
    def from_tables(cls, sentences: pl.DataFrame, findings: pl.DataFrame, study_ids: Sequence[str]) -> SentenceQueries:
        """One query per row of `sentences` that belongs to `study_ids`, in (study, sentence_index) order.

        Raises InputError for a finding, polarity, laterality or region that the lexicon does not name.
        """
        row_of = {study_id: row for row, study_id in enumerate(study_ids)}
        ranks = {"study_id": list(row_of), "row": list(row_of.values())}
        order = pl.DataFrame(ranks, schema={"study_id": pl.String, "row": pl.Int64})
        kept = sentences.join(order, on="study_id", how="inner").sort("row", "sentence_index").with_row_index("query")
        key = ["study_id", "sentence_index"]
        stated = findings.join(kept.select(*key, "query"), on=key, how="inner", maintain_order="left")
        stated = stated.sort("query", maintain_order=True)
        codes = _encode(stated, row_of)
        counts = np.bincount(stated["query"].to_numpy().astype(np.int64), minlength=len(kept))
        return cls(
            texts=tuple(kept["text"]),
            study=kept["row"].to_numpy().astype(np.int64),
            class_id=np.array([int(c, 16) for c in kept["sentence_class"]], np.uint64),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            finding=codes.finding,
            polarity=codes.polarity,
            place=codes.place,
        )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def usable(self) -> BoolArray:
        """(T,) True where the sentence states at least one finding."""
        usable: BoolArray = np.diff(self.offsets) > 0
        return usable

    def unique(self, rows: Sequence[int] | IntArray) -> IntArray:
        """First row of each sentence class among the usable `rows`, in the order of `rows`."""
        index = np.asarray(rows, np.int64)
        index = index[self.usable[index]]
        _, first = np.unique(self.class_id[index], return_index=True)
        kept: IntArray = index[np.sort(first)]
        return kept

    def take(self, rows: Sequence[int] | IntArray) -> SentenceQueries:
        """The queries of a batch, in the order given."""
        index = np.asarray(rows, np.int64)
        picked, offsets = _ragged(self.offsets, index)
        return SentenceQueries(
            texts=tuple(self.texts[i] for i in index),
            study=self.study[index],
            class_id=self.class_id[index],
            offsets=offsets,
            finding=self.finding[picked],
            polarity=self.polarity[picked],
            place=self.place[picked],
        )


def pair_relations(queries: SentenceQueries, studies: StudyStatements) -> npt.NDArray[np.int8]:
    """(T, B) int8 of POSITIVE 1, NEGATIVE 0, HARD_NEGATIVE 2, IGNORE -1 by the table at the top of this module."""
    relation_TB = np.full((len(queries), len(studies)), IGNORE, np.int8)
    usable = queries.usable
    if not usable.any() or not len(studies):
        return relation_TB
    statement_SB = _statement_relations(queries, studies)
    starts = queries.offsets[:-1][usable]
    positive = np.logical_and.reduceat(statement_SB == POSITIVE, starts)
    negative = np.logical_and.reduceat(statement_SB == NEGATIVE, starts)
    contradicted = np.logical_or.reduceat(statement_SB == HARD_NEGATIVE, starts)
    same_text = _same_text(queries.class_id[usable], studies)
    relation_TB[usable] = np.select(
        [same_text | positive, contradicted, negative], [POSITIVE, HARD_NEGATIVE, NEGATIVE], default=IGNORE
    )
    return relation_TB


def _statement_relations(queries: SentenceQueries, studies: StudyStatements) -> npt.NDArray[np.int8]:
    """(S, B) relation of every statement of every query to every study."""
    table = _place_tables()
    place = queries.place
    present, absent, uncertain = (
        np.ascontiguousarray(bits_BF.T[queries.finding])
        for bits_BF in (studies.present, studies.absent, studies.uncertain)
    )
    near = ~table.opposite[place][:, None]
    stated_near = ((present | uncertain) & near) != 0
    refuted = absent & table.refuted_by[place][:, None]
    more = table.implied_by[place][:, None]
    for_present = np.select(
        [(present & more) != 0, (refuted & table.named) != 0, stated_near, refuted != 0, present != 0, uncertain != 0],
        [POSITIVE, HARD_NEGATIVE, IGNORE, HARD_NEGATIVE, HARD_NEGATIVE, IGNORE],
        default=NEGATIVE,
    )
    for_absent = np.select(
        [(present & table.refutes[place][:, None]) != 0, stated_near, (absent & table.covered_by[place][:, None]) != 0],
        [HARD_NEGATIVE, IGNORE, POSITIVE],
        default=IGNORE,
    )
    for_uncertain = np.select(
        [(uncertain & more) != 0, (present | uncertain) != 0, refuted != 0],
        [POSITIVE, IGNORE, HARD_NEGATIVE],
        default=NEGATIVE,
    )
    return np.choose(queries.polarity[:, None], [for_present, for_absent, for_uncertain]).astype(np.int8)


def _same_text(class_id_T: BitArray, studies: StudyStatements) -> BoolArray:
    """(T, B) True where the study contains a sentence of that class."""
    hits = np.zeros((len(class_id_T), len(studies.class_ids) + 1), np.int32)
    np.cumsum(class_id_T[:, None] == studies.class_ids, axis=1, out=hits[:, 1:])
    same: BoolArray = hits[:, studies.offsets[1:]] > hits[:, studies.offsets[:-1]]
    return same


@dataclass(frozen=True)
class _Places:
    """uint64 masks per place q (64,): which stated places stand in the named relation to q."""

    implied_by: BitArray  # f there implies f at q
    covered_by: BitArray  # no f there implies no f at q
    refuted_by: BitArray  # no f there contradicts f at q
    refutes: BitArray  # f there contradicts no f at q
    opposite: BitArray  # left against right
    named: np.uint64  # every place with a side or a region


@cache
def _place_tables() -> _Places:
    size = len(LATERALITIES) * _SLOTS
    side, region = np.divmod(np.arange(size), _SLOTS)
    within = np.eye(_SLOTS, dtype=bool)  # within[a, b]: region a lies in region b
    within[:, 0] = True
    lexicon = load_lexicon()
    for name, parent in lexicon.region_parents.items():
        within[lexicon.regions.index(name) + 1, lexicon.regions.index(parent) + 1] = True
    q_side, s_side = side[:, None], side[None, :]
    s_in_q = within[region[None, :], region[:, None]]
    q_in_s = within[region[:, None], region[None, :]]
    both = 3
    implied = ((q_side == 0) | (s_side == q_side) | (s_side == both)) & s_in_q
    covered = ((s_side == 0) | (s_side == both) | (s_side == q_side)) & q_in_s
    refuted = (covered | ((q_side == both) & (s_side > 0))) & q_in_s
    opposite = ((q_side == 1) & (s_side == 2)) | ((q_side == 2) & (s_side == 1))
    bit = np.uint64(1) << np.arange(size, dtype=np.uint64)

    def mask(matrix: BoolArray) -> BitArray:
        masks: BitArray = np.where(matrix, bit, np.uint64(0)).sum(axis=1, dtype=np.uint64)
        return masks

    return _Places(mask(implied), mask(covered), mask(refuted), mask(refuted.T), mask(opposite), ~bit[0])


def _join_sides(stated: BitArray) -> BitArray:
    """A finding stated on the left and on the right of one region is stated on both sides."""
    left, right = (np.uint64(_SLOTS * side) for side in (1, 2))
    low = np.uint64((1 << _SLOTS) - 1)
    shared = (stated >> left) & (stated >> right) & low
    joined: BitArray = stated | (shared << np.uint64(3 * _SLOTS))
    return joined


def _nest(stated: BitArray) -> tuple[BitArray, BitArray, BitArray]:
    """Carry statements along the finding hierarchy; input (3, B, F) in the order of POLARITIES."""
    present, absent, uncertain = (stated[polarity].copy() for polarity in range(3))
    lexicon = load_lexicon()
    names = list(lexicon.findings)
    for name, parent in lexicon.finding_parents.items():
        child, above = names.index(name), names.index(parent)
        present[:, above] |= stated[0][:, child]
        uncertain[:, above] |= stated[2][:, child]
        absent[:, child] |= stated[1][:, above]
        uncertain[:, child] |= stated[0][:, above] | stated[2][:, above]
    return present, absent, uncertain


@dataclass(frozen=True)
class _Codes:
    study: IntArray
    finding: IntArray
    polarity: IntArray
    place: IntArray


def _encode(findings: pl.DataFrame, row_of: dict[str, int]) -> _Codes:
    lexicon = load_lexicon()

    def codes(*names: str | None) -> dict[str | None, int]:
        return {name: code for code, name in enumerate(names)}

    def column(name: str, known: Mapping[str | None, int]) -> IntArray:
        try:
            return np.array([known[value] for value in findings[name]], np.int64)
        except KeyError as error:
            raise InputError(
                f"findings table: {name} {error.args[0]!r} is not in the lexicon; run `glint sections` again"
            ) from None

    return _Codes(
        study=column("study_id", codes(*row_of)),
        finding=column("finding", codes(*lexicon.findings)),
        polarity=column("polarity", codes(*POLARITIES)),
        place=column("laterality", codes(*LATERALITIES)) * _SLOTS + column("region", codes(None, *lexicon.regions)),
    )


def _ragged(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Indices of the ragged elements of `rows`, and their new offsets."""
    counts = offsets[rows + 1] - offsets[rows]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    picked = np.arange(new[-1]) - np.repeat(new[:-1], counts) + np.repeat(offsets[rows], counts)
    return picked.astype(np.int64), new
