"""
How many parts an SMS has: 160 characters of the GSM alphabet or 70 of UCS-2 fit one, 153 or 67 each part of a longer one (3GPP TS 23.040, 23.038).

Thirty lines of our own: of the libraries, smsutil brings `future` with it and was last released before Python 3.9, gsm0338 has the alphabet and counts
no parts. Both are the oracles of tests/test_segments.py.
"""

from __future__ import annotations

from dataclasses import dataclass

GSM = frozenset("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà")
EXTENSION = frozenset("\f^{}\\[~]|€")  # an escape goes before each: two places, which no cut may part


def is_gsm(text: str) -> bool:
    """Whether every character is of the GSM alphabet. One that is not, such as a curly quote, makes the whole text UCS-2."""
    return GSM.issuperset(text) or (GSM | EXTENSION).issuperset(text)


def segments(text: str) -> int:
    """How many parts are sent, and paid, for this text."""
    if is_gsm(text):
        single, part, sizes = 160, 153, [2 if character in EXTENSION else 1 for character in text]
    else:
        single, part, sizes = 70, 67, [2 if ord(character) > 0xFFFF else 1 for character in text]  # a surrogate pair
    if sum(sizes) <= single:
        return 1
    count, free = 1, part
    for size in sizes:
        if size > free:
            count, free = count + 1, part
        free -= size
    return count


@dataclass
class Count:
    """What a bulk run will send."""

    messages: int = 0
    segments: int = 0
    ucs2: int = 0
    templates: int = 0  # whose text only the gateway knows

    def add(self, text: object) -> None:
        """One more message; anything but text is a template of the gateway's."""
        self.messages += 1
        if isinstance(text, str):
            self.segments += segments(text)
            self.ucs2 += not is_gsm(text)
        else:
            self.templates += 1

    def __str__(self) -> str:
        said = [f"{self.messages:,} messages, {self.segments:,} segments" if self.segments != 1 else f"{self.messages:,} messages, 1 segment"]
        said += [f"{self.ucs2:,} of them in UCS-2, which fits 70 characters instead of 160"] * bool(self.ucs2)
        said += [f"{self.templates:,} from templates, whose length only the gateway knows"] * bool(self.templates)
        return "; ".join(said)
