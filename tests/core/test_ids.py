"""Pseudonyms are keyed, stateless and valid."""

import datetime
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.core.errors import PrivacyError
from glint.core.ids import Pseudonyms, create_key, read_key

KEY = bytes(range(32))
UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=8).map(lambda parts: ".".join(map(str, parts)))


@given(UIDS)
def test_a_mapped_uid_is_a_valid_uid_of_the_uuid_root(uid):
    mapped = Pseudonyms(KEY).uid(uid)
    assert len(mapped) <= 64 and mapped.startswith("2.25.") and mapped != uid
    assert str(int(mapped[5:])) == mapped[5:] and int(mapped[5:]) < 2**128


@given(UIDS, UIDS)
def test_different_identifiers_differ_and_another_key_gives_other_pseudonyms(first, second):
    names = Pseudonyms(KEY)
    assert (names.uid(first) == names.uid(second)) == (first == second)
    assert Pseudonyms(KEY[::-1]).study_id(first) != names.study_id(first)


@given(st.text(min_size=1, max_size=12))
def test_dates_move_by_whole_weeks_of_at_least_a_month_and_at_most_ten_years(patient):
    days = Pseudonyms(KEY).date_shift_days(patient)
    assert days % 7 == 0 and 30 <= abs(days) <= 3650
    day = datetime.date(2021, 3, 4)
    assert (day + datetime.timedelta(days)).weekday() == day.weekday()


def test_another_process_gives_the_same_pseudonyms():
    script = (
        "from glint.core.ids import Pseudonyms as P; p = P(bytes(range(32))); print(p.uid('1.2.3'), p.patient_id('A'))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [Pseudonyms(KEY).uid("1.2.3"), Pseudonyms(KEY).patient_id("A")]


def test_the_key_file_is_private_made_once_and_refused_when_others_can_read_it(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(PrivacyError, match="GLINT_DEID_KEY_FILE"):
        read_key(path)
    key = create_key(path)
    assert create_key(path) == key == read_key(path) and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(PrivacyError, match="chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("abcd")
    with pytest.raises(PrivacyError, match="at least 32"):
        read_key(path)
