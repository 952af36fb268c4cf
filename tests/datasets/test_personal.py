"""Personal data by recognisers: what is found and of which kind, what is a plain number, and what masking leaves."""

import importlib
import json
import socket
import sys

import pytest

from app.datasets.personal import HEAVY, PersonalFinder, hidden, is_dialled, is_issued_card


@pytest.fixture(scope="module")
def finder():
    return PersonalFinder()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to jane.doe@example.org.", ["EMAIL_ADDRESS"]),
        ("pay to gb82west12345698765432 please", ["IBAN_CODE"]),
        ("Her card is 4111 1111 1111 1111.", ["CREDIT_CARD"]),
        ("My card 630427373398 is lost", ["CREDIT_CARD"]),
        ("Call me on 0496 46 46 70", ["PHONE_NUMBER"]),
        ("ring 030 1234 ext. 17", ["PHONE_NUMBER"]),
        ("fax: (212) - 555 / 0188", ["PHONE_NUMBER"]),
        ("Call +49 30 1234567 or write to a@example.org", ["PHONE_NUMBER", "EMAIL_ADDRESS"]),
        ("They're not answering at 71-33-52-22", ["PHONE_NUMBER"]),
        ("from 192.168.17.4 at night", ["IP_ADDRESS"]),
        ("my SSN is 494-33-0748", ["US_SSN"]),
        ("codice RSSMRA85T10A562S", ["IT_FISCAL_CODE"]),
    ],
)
def test_what_is_found(finder, text, kinds):
    assert [hit.kind for hit in finder.find(text)] == kinds


@pytest.mark.parametrize(
    "text",
    ["", "She had 960-480-120 = <<960-480-120=360>>360 left", "350 - 262 = 88 pages", "There are 67.62804511 ounces",
     "Order 1234-5678-9012 of 2026-11-22", "See https://example.org/page on 2/10/1985",
     "In 1977 it cost $34,500-33,000"],
)  # fmt: skip
def test_what_is_not(finder, text):
    assert finder.find(text) == []


def test_masking_names_the_kind_and_leaves_nothing(finder):
    text = "Mail a@example.org, call +49 30 1234567, card 4111111111111111."
    masked = finder.mask(text)
    assert masked == "Mail <EMAIL_ADDRESS>, call <PHONE_NUMBER>, card <CREDIT_CARD>."
    assert finder.find(masked) == []


def test_kinds_can_be_chosen():
    chosen = PersonalFinder(kinds=["URL", "DATE_TIME"])
    assert [hit.kind for hit in chosen.find("see http://www.example.fr/ of 2/10/1985, a@example.org")] == [
        "URL", "DATE_TIME"
    ]  # fmt: skip


def test_what_loading_hides_is_there_again():
    with hidden("wave", "json"):
        assert json.dumps(1) == "1"
        with pytest.raises(ImportError):
            importlib.import_module("wave")
    assert importlib.import_module("wave").Error
    assert not {name for name in HEAVY if sys.modules.get(name, sys) is None}


def test_no_network_is_asked(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a recogniser asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert PersonalFinder().find("a@example.org http://www.example.fr 4111111111111111")


@pytest.mark.parametrize(
    ("number", "holds"),
    [("4111111111111111", True), ("4111111111111112", False), ("630427373398", True), ("180016070420458", True),
     ("347415977307943", True), ("123456789012", False), ("0000000000000000", False)],
)  # fmt: skip
def test_cards(number, holds):
    assert is_issued_card(number) is holds


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [("call 555 123 4567 now", "555 123 4567", True), ("is 140-30 = 110", "140-30", False),
     ("costs $3900-2000", "3900-2000", False), ("at 03.93.92.16.85", "03.93.92.16.85", True)],
)  # fmt: skip
def test_sums_are_not_dialled(text, found, holds):
    start = text.index(found)
    assert is_dialled(text, start, start + len(found)) is holds
