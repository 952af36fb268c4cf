"""Personal data: what looks like it is found, what fails its check digits or is an ordinary number is not."""

import pytest

from app.core.personal import find_personal, is_card, is_iban


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jane.doe+x@example.co.uk.", ["email"]),
        ("IBAN DE89 3704 0044 0532 0130 00", ["iban"]),
        ("pay to GB82WEST12345698765432, please", ["iban"]),
        ("card 4111 1111 1111 1111.", ["card"]),
        ("call +49 30 1234567", ["phone"]),
        ("call (555) 123-4567", ["phone"]),
        ("SSN 123-45-6789", ["national_id"]),
        ("NINO AB 12 34 56 C", ["national_id"]),
        ("DNI 12345678Z", ["national_id"]),
        ("codice RSSMRA85T10A562S", ["national_id"]),
    ],
)
def test_what_is_found(text, kinds):
    assert [hit.kind for hit in find_personal(text)] == kinds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the fee is 12.50 euros, 3 years at 4.25 percent",
        "IBAN DE88 3704 0044 0532 0130 00",
        "card 4111 1111 1111 1112",
        "order 1234-5678-9012",
        "SSN 000-45-6789",
        "DNI 12345678A",
        "version 1.2.3.4, 2026-11-22T10:00:00",
        "a@b",
        "0000 0000 0000 0000",
    ],
)
def test_what_is_not(text):
    assert list(find_personal(text)) == []


def test_a_hit_says_where_and_repeats_nothing():
    text = "mail a@example.org now"
    hit = next(find_personal(text))
    assert text[hit.start : hit.end] == "a@example.org"
    assert "example" not in repr(hit)


def test_check_digits():
    assert is_iban("GB82 WEST 1234 5698 7654 32")
    assert not is_iban("GB82 WEST 1234 5698 7654 33")
    assert is_card("5555-5555-5555-4444")
    assert not is_card("5555-5555-5555-4445")
