"""Pseudonyms: keyed, stateless, the same in every process.

Source: DICOM PS3.15 E.1.1 warns of unkeyed hashes ("vulnerable to trivial dictionary attacks"), hence HMAC-SHA256
with a secret key, one domain per kind of identifier.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from glint.core.errors import PrivacyError

KEY_BYTES = 32
SHIFT_WEEKS = (5, 521)  # 35 to 3,647 days: whole weeks keep the day of the week


def read_key(path: Path | str) -> bytes:
    """Read the secret key (64 hexadecimal digits); refuses a file that others may read."""
    file = Path(path)
    if not file.is_file():
        raise PrivacyError(
            f"key file {file} does not exist: set GLINT_DEID_KEY_FILE to your key file, or make one with "
            f"`glint key create --key-file {file}`"
        )
    if file.stat().st_mode & 0o077:
        raise PrivacyError(f"key file {file} can be read by others: run `chmod 600 {file}`")
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise PrivacyError(f"key file {file} must hold {KEY_BYTES * 2} hexadecimal digits") from error
    if len(key) < KEY_BYTES:
        raise PrivacyError(f"key file {file} holds {len(key)} bytes, at least {KEY_BYTES} are needed")
    return key


def create_key(path: Path | str) -> bytes:
    """Make a new random key file with mode 0600; an existing file is read, never replaced."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(file)
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(secrets.token_hex(KEY_BYTES) + "\n")
    return read_key(file)


def part_uid(series_uid: str, part: str) -> str:
    """What stands for a part of a split series wherever its Series Instance UID is mapped; the UID itself for a whole one."""
    return f"{series_uid.strip()}#{part}" if part else series_uid


def check_key_place(path: Path | str) -> None:
    """Refuse a key file inside a git or DVC repository: it would be a commit away from the data it protects."""
    file = Path(path).resolve()
    for folder in file.parents:
        if (folder / ".git").exists() or (folder / ".dvc").exists():
            raise PrivacyError(f"key file {file} lies inside the repository {folder}: keep it outside")


def rotate_key(path: Path | str) -> Path:
    """Replace the key by a new random one; returns where the old one is kept, beside it."""
    file = Path(path)
    old = read_key(file)
    kept = file.with_name(f"{file.name}.old-{hashlib.sha256(old).hexdigest()[:8]}")
    new = file.with_name(f".{file.name}.new")
    os.link(file, kept)
    create_key(new)
    os.replace(new, file)
    return kept


@dataclass(frozen=True)
class Pseudonyms:
    """Maps original identifiers to pseudonyms under one secret key."""

    key: bytes

    def _mac(self, domain: str, value: str) -> bytes:
        return hmac.new(self.key, f"{domain}\x1f{value.strip()}".encode(), hashlib.sha256).digest()

    def study_id(self, study_uid: str) -> str:
        """`s` and 20 hexadecimal digits for a Study Instance UID."""
        return "s" + self._mac("uid", study_uid).hex()[:20]

    def series_id(self, series_uid: str) -> str:
        """`r` and 20 hexadecimal digits for a Series Instance UID."""
        return "r" + self._mac("uid", series_uid).hex()[:20]

    def instance_id(self, instance_uid: str) -> str:
        """`i` and 20 hexadecimal digits for a SOP Instance UID."""
        return "i" + self._mac("uid", instance_uid).hex()[:20]

    def patient_id(self, raw_patient_id: str) -> str:
        """`p` and 20 hexadecimal digits for a Patient ID."""
        return "p" + self._mac("patient", raw_patient_id).hex()[:20]

    def accession(self, raw_accession: str) -> str:
        """16 hexadecimal digits for an accession number (DICOM SH allows 16 characters)."""
        return self._mac("accession", raw_accession).hex()[:16]

    def uid(self, uid: str) -> str:
        """A new UID under 2.25 (at most 44 characters) for any instance-level UID. Source: PS3.5 B.2."""
        return f"2.25.{int.from_bytes(self._mac('uid', uid)[:16], 'big')}"

    def date_shift_days(self, raw_patient_id: str) -> int:
        """Whole weeks, back or forth, the same for every date of one patient, in headers and reports."""
        mac = self._mac("dates", raw_patient_id)
        low, high = SHIFT_WEEKS
        weeks = low + int.from_bytes(mac[:4], "big") % (high - low + 1)
        return 7 * (weeks if mac[4] & 1 else -weeks)
