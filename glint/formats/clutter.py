"""What lies beside DICOM files in raw folders, told from the first bytes: named, and no error.

Source of the signatures: the formats' own specifications.
"""

MEDIA_DIRECTORY, OTHER = "media_directory", "other"
_SIGNATURES = {
    b"\xff\xd8\xff": "picture",
    b"\x89PNG": "picture",
    b"GIF8": "picture",
    b"BM": "picture",
    b"II*\0": "picture",
    b"MM\0*": "picture",
    b"\0\0\1\0": "picture",
    b"%PDF": "document",
    b"\xd0\xcf\x11\xe0": "document",
    b"{\\rtf": "document",
    b"MZ": "program",
    b"\x7fELF": "program",
    b"\xca\xfe\xba\xbe": "program",
    b"\0\0\0\1Bud1": "folder_settings",
}
_OFFICE = (b"[Content_Types].xml", b"mimetype", b"META-INF/")  # first member of office documents and Java programs
KINDS = frozenset({MEDIA_DIRECTORY, OTHER, "empty", "packed_file", "text", *_SIGNATURES.values()})


def clutter_kind(head: bytes) -> str:
    """The kind of a file that is neither DICOM nor an archive, from its first 512 bytes; one of `KINDS`."""
    if not head:
        return "empty"
    if head[128:132] == b"DICM":
        return MEDIA_DIRECTORY
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    printable = sum(byte >= 0x20 or byte in b"\t\r\n" for byte in head)
    utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    return "text" if utf16 or printable == len(head) else OTHER


def is_document(head: bytes) -> bool:
    """True for an office document or Java program, which are zip archives of no interest."""
    return head[:4] == b"PK\x03\x04" and head[30 : 30 + 30].startswith(_OFFICE)
