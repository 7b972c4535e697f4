"""One text as the bytes that it may be in a file: cases and encodings."""

ENCODINGS: tuple[str, ...] = ("utf-8", "latin-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-6", "iso8859-8")
ENCODINGS += ("koi8-r", "iso2022_jp", "iso2022_kr", "euc_kr", "shift_jis", "gb18030", "utf-16-le", "utf-16-be")
"""What DICOM's character sets mean (PS3.3 C.12.1.1.2), and what workstations write whatever they declare."""


def encoded_forms(text: str) -> frozenset[bytes]:
    """`text` as it is, in capitals and in title case, in every encoding that has its letters."""
    forms: set[bytes] = set()
    for form in (text, text.upper(), text.title()):
        for encoding in ENCODINGS:
            try:
                forms.add(form.encode(encoding))
            except UnicodeEncodeError:
                continue
    return frozenset(forms)
