"""Personal data in text, by patterns and check digits.

Guarantees: pure; every hit says its kind and place. Numbers that carry check digits (IBAN, payment cards, some national
ids) count only where these hold, so that order numbers are no hits. Not guaranteed: names, addresses, or anything that
no pattern shows; a language model's or a person's look finds more.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
_PHONE = re.compile(r"(?<![\w+.,/-])(?<!\d )(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,4}\)?){2,6}(?![\w/-])")
_LOCAL_PHONE = re.compile(r"(?<![\w+.,/-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_NINO = re.compile(r"(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D](?!\w)")
_NIF = re.compile(r"(?<!\w)[XYZ\d]\d{7}[A-Z](?!\w)")
_FISCAL_CODE = re.compile(r"(?<!\w)[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z](?!\w)")
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 8, 15


@dataclass(frozen=True)
class Hit:
    """Personal data found: its kind and the characters ``start`` to ``end``. The text itself is not repeated."""

    kind: str
    start: int
    end: int


def find_personal(text: str) -> Iterator[Hit]:
    """Every hit, kind by kind; a number that is a card or an account is no phone number as well."""
    taken: list[Hit] = []
    for kind, pattern, holds in _KINDS:
        for match in pattern.finditer(text):
            hit = Hit(kind, *match.span())
            if holds(match[0]) and not any(hit.start < other.end and other.start < hit.end for other in taken):
                taken.append(hit)
    yield from taken


def is_iban(text: str) -> bool:
    """Whether the check digits of an account number hold (ISO 13616: the rearranged number modulo 97 is 1)."""
    plain = text.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34 or not plain.isalnum() or not plain.isascii():
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Whether a payment card's check digit holds (ISO/IEC 7812-1: Luhn) and its first digit is one that issuers use."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) == 1:
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def _is_phone(text: str) -> bool:
    return MIN_PHONE_DIGITS <= sum(letter.isdigit() for letter in text) <= MAX_PHONE_DIGITS


def _is_nif(text: str) -> bool:
    """Spain's DNI and NIE: the letter is the number modulo 23."""
    number = int(str("XYZ".find(text[0])) + text[1:8]) if text[0] in "XYZ" else int(text[:8])
    return text[8] == "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]


def _always(_: str) -> bool:
    return True


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", _EMAIL, _always),
    ("iban", _IBAN, is_iban),
    ("card", _CARD, is_card),
    ("national_id", _SSN, _always),
    ("national_id", _NINO, _always),
    ("national_id", _NIF, _is_nif),
    ("national_id", _FISCAL_CODE, _always),
    ("phone", _PHONE, _is_phone),
    ("phone", _LOCAL_PHONE, _is_phone),
)
KINDS = ("email", "phone", "iban", "card", "national_id")
