"""What a series of films is, from headers alone, and which of its films can be used.

Films stand for themselves: one that is refused leaves its series, the others stay. Source: PS3.3 C.7.1.1 (species),
C.8.11.1 (presentation intent), PS3.4 B.5 (SOP classes).
"""

from collections import Counter
from collections.abc import Sequence

from glint.core.config.index import FilmIndexConfig
from glint.formats.dicom import InstanceHeader
from glint.prepare.index.classify import SECONDARY_CAPTURE, SeriesVerdict

CR = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
FILM_MODALITIES = ("CR", "DX", "DR")
HUMAN = ("HUMAN", "HOMO SAPIENS", "HOMO SAPIEN", "337915000", "L-85B00")


def _letters(text: str) -> str:
    return "".join(character for character in text.upper() if character.isalpha())


def _refusal(header: InstanceHeader, config: FilmIndexConfig) -> str | None:
    """Why one file is no usable chest film, or None."""
    if header.sop_class_uid.startswith(SECONDARY_CAPTURE):
        if not (config.accept_secondary_capture and header.modality.upper() in FILM_MODALITIES):
            return "secondary_capture"
    elif header.sop_class_uid == DX_FOR_PROCESSING:
        if not config.accept_for_processing:
            return "for_processing"
    elif header.sop_class_uid not in (CR, DX_FOR_PRESENTATION):
        return "not_a_film"
    if header.species and not any(header.species.upper().startswith(word) for word in HUMAN):
        return "not_human"
    if _letters(header.body_part) in config.non_chest_body_parts:
        return "not_chest"
    if header.num_frames > 1:
        return "multi_frame"
    return None if header.pixels == "complete" else "truncated"


def classify_films(headers: Sequence[InstanceHeader], config: FilmIndexConfig) -> SeriesVerdict:
    """Tell films from captures, raw detector images, other body parts and animals, each file for itself."""
    refused = {header.file: reason for header in headers if (reason := _refusal(header, config)) is not None}
    if len(refused) < len(headers):
        return SeriesVerdict(kind="film", reason=None, dropped=refused)
    reason = Counter(sorted(refused.values())).most_common(1)[0][0]
    return SeriesVerdict(kind="film", reason=reason)
