"""Segments of an SMS: what is counted is what is paid. smsutil and gsm0338 are the oracles."""

import json
import os
import subprocess
from contextlib import suppress

import gsm0338  # noqa: F401 - it registers the codec
import pytest
import smsutil
from hypothesis import given
from hypothesis import strategies as st

from asyncsend.answers import BadPayload
from asyncsend.tasks.segments import EXTENSION, GSM, Count, is_gsm, segments
from asyncsend.tasks.sms import message_of

ALPHABET = "".join(sorted(GSM | EXTENSION))


@pytest.mark.parametrize(
    "text, parts",
    [("x", 1), ("x" * 160, 1), ("x" * 161, 2), ("x" * 306, 2), ("x" * 307, 3), ("€" * 80, 1), ("€" * 81, 2), ("x" * 159 + "€", 2), ("é" * 160, 1), ("ç" * 70, 1),
     ("ç" * 71, 2), ("ç" * 134, 2), ("ç" * 135, 3), ("😀" * 35, 1), ("😀" * 36, 2), ("x" * 70 + "’", 2), ("x" * 160 + "’", 3), ("line\nline", 1)],
)  # fmt: skip
def test_a_text_has_as_many_segments_as_are_paid(text, parts):
    assert segments(text) == parts


def test_what_is_escaped_or_a_pair_is_never_parted():
    assert segments(("x" * 152 + "€") + "x" * 150) == 2
    assert segments(("x" * 152 + "€") + "x" * 152) == 3, "305 places, and the first part has an empty one"
    assert segments("ç" * 66 + "😀" + "ç" * 66) == 3, "134 units, and the first part has an empty one"


def test_the_alphabet_is_the_one_of_the_codec():
    def has(character):
        try:
            return bool(character.encode("gsm0338"))
        except UnicodeEncodeError:
            return False

    wrong = [character for number in range(0x3000) if (character := chr(number)) != "\x1b" and has(character) != is_gsm(character)]
    assert wrong == []


@given(st.text(st.sampled_from(ALPHABET), min_size=1, max_size=700) | st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=400))
def test_the_number_is_the_one_smsutil_counts(text):
    if "\x1b" not in text:  # which smsutil takes for a letter
        assert segments(text) == len(smsutil.split(text).parts)


def test_a_text_of_more_segments_than_the_setting_allows_is_refused_before_it_is_paid():
    to = "+33612345678"
    assert message_of({"to": to, "text": "x" * 153 * 10}, "", 10)
    for text in ("x" * 1531, "ç" * 671):
        with pytest.raises(BadPayload, match="11 segments, and ASYNCSEND_SMS_SEGMENTS allows 10"):
            message_of({"to": to, "text": text}, "", 10)


def test_a_bulk_run_says_what_it_will_send():
    count = Count()
    for text in ("x" * 161, "ç", None):
        count.add(text)
    assert str(count) == "3 messages, 3 segments; 1 of them in UCS-2, which fits 70 characters instead of 160; 1 from templates, whose length only the gateway knows"


LINES = "to,name\n+33612345678,Ann\n+33612345679,Bob ’\nnonsense,\n"
LETTER = '{"to":"{{to}}","text":"' + "x" * 66 + '{{name}}"}'


def test_a_dry_run_prints_what_the_sms_of_all_lines_would_cost(lite, tmp_path):
    (tmp_path / "people.csv").write_text(LINES)
    done = lite("enqueue", "sms", LETTER, "--each", str(tmp_path / "people.csv"), "--dry-run")
    assert done.stdout == "3 messages, 4 segments; 1 of them in UCS-2, which fits 70 characters instead of 160.\n"
    told = json.loads(lite("enqueue", "sms", LETTER, "--each", str(tmp_path / "people.csv"), "--dry-run", "--json").stdout)
    assert told["sms"] == {"messages": 3, "segments": 4, "ucs2": 1, "templates": 0}
    assert lite.rows("id") == []


def test_before_a_bulk_run_a_terminal_shows_what_it_will_cost_and_nobody_else_is_told(lite, tmp_path):
    (tmp_path / "people.csv").write_text(LINES)
    words = ["enqueue", "sms", LETTER, "--each", str(tmp_path / "people.csv")]
    assert "segments" not in lite(*words).stderr
    master, terminal = os.openpty()
    shown = subprocess.run(lite.command(*words), env=lite.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, timeout=60)
    os.close(terminal)
    said = b""
    with suppress(OSError):  # a terminal that nobody has open any more
        while piece := os.read(master, 4096):
            said += piece
    os.close(master)
    assert shown.returncode == 0
    assert said.index(b"3 messages, 4 segments") < said.index(b"were there already")
