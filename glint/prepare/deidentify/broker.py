"""The re-identification table of an honest broker: who is behind each pseudonym, encrypted at rest.

Written only when asked for and only below `restricted/`. Encryption: Fernet of the package `cryptography` (AES-128-CBC
with HMAC-SHA256); the broker's key is another than that of the pseudonyms.
"""

import os
from pathlib import Path

import polars as pl
from cryptography.fernet import Fernet, InvalidToken

from glint.core.atomic import atomic_file
from glint.core.errors import PrivacyError
from glint.core.ids import Pseudonyms, check_key_place
from glint.formats.manifest import read_manifest


def _broker_key(file: Path, *, create: bool) -> Fernet:
    check_key_place(file)
    if create and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(Fernet.generate_key() + b"\n")
    if not file.is_file():
        raise PrivacyError(f"broker key file {file} does not exist")
    if file.stat().st_mode & 0o077:
        raise PrivacyError(f"broker key file {file} can be read by others: run `chmod 600 {file}`")
    try:
        return Fernet(file.read_bytes().strip())
    except ValueError as error:
        raise PrivacyError(f"broker key file {file} holds no Fernet key; `glint key table` makes one") from error


def write_table(studies: Path, out: Path, broker_key_file: Path, pseudonyms: Pseudonyms) -> int:
    """Write pseudonym and original of every study of `studies` to `out`; returns how many.

    Raises:
        PrivacyError: `out` is not below a folder named `restricted`, or the broker's key can't be used.
    """
    if "restricted" not in out.resolve().parent.parts:
        raise PrivacyError(f"{out}: a re-identification table may lie only below a folder named restricted")
    fernet = _broker_key(broker_key_file, create=True)
    rows = [
        {
            "study_id": row["study_id"],
            "patient_id": pseudonyms.patient_id(row["patient_key"]),
            "shift_days": pseudonyms.date_shift_days(row["patient_key"]),
            "raw_patient_id": row["raw_patient_id"],
            "raw_accession": row["accession"],
            "raw_study_uid": row["study_uid"],
            "raw_patient_names": "\\".join(row["patient_names"]),
        }
        for row in read_manifest(studies, "index_studies").sort("study_id").iter_rows(named=True)
    ]
    content = fernet.encrypt(pl.DataFrame(rows).write_csv().encode())
    out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_file(out) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(content)
    return len(rows)


def open_table(table: Path, broker_key_file: Path) -> str:
    """The table as CSV text.

    Raises:
        PrivacyError: the key is another, or the file was changed.
    """
    try:
        return _broker_key(broker_key_file, create=False).decrypt(table.read_bytes()).decode()
    except InvalidToken as error:
        raise PrivacyError(f"{table}: another broker key made it, or it was changed") from error
