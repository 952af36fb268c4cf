"""The fact table behind the sample corpus: what the fictional Alderhaven Cooperative's handbook states.

Guarantees: every (entity, attribute) has exactly one value in a revision; revision 2 changes a dozen values,
withdraws two entities with all their facts, and adds one subject (solar energy loans and e-bike leasing) that
shares no entity and no attribute with revision 1. Only the corpus and the held-out questions read this table:
synthesis sees the rendered documents and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

COOPERATIVE = "Alderhaven Cooperative"
Revision = Literal[1, 2]


@dataclass(frozen=True)
class Fact:
    """One statement of the handbook; `value` is the answer that a question about it expects."""

    topic: str
    entity: str
    attribute: str
    value: str

    @property
    def key(self) -> tuple[str, str]:
        """What the fact is about: (entity, attribute)."""
        return self.entity, self.attribute


@dataclass(frozen=True)
class Topic:
    """A subject of the handbook: entities by attributes, a value in each cell."""

    name: str
    title: str
    entity_column: str
    attributes: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]

    def facts(self) -> tuple[Fact, ...]:
        """Every cell as a fact, row by row."""
        return tuple(
            Fact(self.name, entity, attribute, value)
            for entity, values in self.rows.items()
            for attribute, value in zip(self.attributes, values, strict=True)
        )


TOPICS_AT_FIRST = (
    Topic(
        "cooperative",
        "About the cooperative",
        "Organisation",
        ("founding year", "head office", "membership share", "chief executive", "annual assembly", "newsletter"),
        {COOPERATIVE: ("1924", "Alderhaven", "25 euros", "Marit Solberg", "first Saturday of May", "The Lighthouse")},
    ),
    Topic(
        "accounts",
        "Current accounts",
        "Account",
        ("annual fee", "minimum deposit", "overdraft limit", "welcome gift", "statement day", "account code"),
        {
            "Harbour Account": ("12 euros", "50 euros", "400 euros", "cotton bag", "Monday", "HB21"),
            "Lantern Account": ("24 euros", "100 euros", "900 euros", "reading lamp", "Tuesday", "LN34"),
            "Orchard Account": ("18 euros", "75 euros", "650 euros", "apple tree", "Friday", "OR57"),
            "Compass Account": ("36 euros", "250 euros", "1,500 euros", "travel map", "Thursday", "CP62"),
            "Willow Youth Account": ("0 euros", "5 euros", "20 euros", "money box", "Saturday", "WY10"),
            "Anchor Business Account": ("96 euros", "500 euros", "5,000 euros", "fountain pen", "Wednesday", "AB88"),
        },
    ),
    Topic(
        "savings",
        "Savings",
        "Product",
        ("interest rate", "notice period", "minimum balance", "loyalty bonus", "withdrawal charge", "savings adviser"),
        {
            "Acorn Savings Plan": ("1.2 percent", "7 days", "10 euros", "15 euros", "1 euro", "Pia Novak"),
            "Beacon Savings Plan": ("2.1 percent", "32 days", "500 euros", "40 euros", "6 euros", "Owen Hale"),
            "Granite Term Deposit": ("3.4 percent", "6 months", "2,000 euros", "90 euros", "45 euros", "Lena Fischer"),
            "Meadow Pension Plan": ("2.8 percent", "1 year", "300 euros", "120 euros", "80 euros", "Tomas Rydell"),
        },
    ),
    Topic(
        "loans",
        "Loans",
        "Loan",
        ("borrowing rate", "maximum amount", "longest term", "arrangement fee", "decision time", "required security"),
        {
            "Cottage Home Loan": (
                "3.9 percent",
                "400,000 euros",
                "30 years",
                "750 euros",
                "10 working days",
                "first mortgage",
            ),
            "Ferry Car Loan": (
                "5.5 percent",
                "35,000 euros",
                "6 years",
                "120 euros",
                "2 working days",
                "vehicle papers",
            ),
            "Bridge Loan": (
                "6.8 percent",
                "80,000 euros",
                "18 months",
                "310 euros",
                "4 working days",
                "sales contract",
            ),
            "Scholar Study Loan": ("2.5 percent", "20,000 euros", "12 years", "60 euros", "1 week", "parent signature"),
            "Workshop Business Loan": (
                "4.7 percent",
                "150,000 euros",
                "9 years",
                "480 euros",
                "3 weeks",
                "machine pledge",
            ),
        },
    ),
    Topic(
        "cards",
        "Payment cards",
        "Card",
        ("replacement fee", "daily limit", "card colour", "exchange surcharge", "delivery time", "hotline number"),
        {
            "Pebble Debit Card": ("8 euros", "600 euros", "grey", "1.5 percent", "5 days", "555 0110"),
            "Sail Credit Card": ("14 euros", "1,200 euros", "blue", "1.9 percent", "8 days", "555 0127"),
            "Summit Credit Card": ("22 euros", "3,000 euros", "black", "0.8 percent", "3 days", "555 0136"),
            "Harvest Prepaid Card": ("4 euros", "150 euros", "orange", "2.4 percent", "9 days", "555 0149"),
        },
    ),
    Topic(
        "insurance",
        "Insurance",
        "Insurance",
        ("monthly premium", "excess", "maximum cover", "claims deadline", "underwriter", "waiting period"),
        {
            "Shelter Home Insurance": (
                "19 euros",
                "200 euros",
                "600,000 euros",
                "14 days",
                "Norvik Re",
                "4 weeks",
            ),
            "Voyage Travel Insurance": ("7 euros", "85 euros", "50,000 euros", "30 days", "Blue Arc", "24 hours"),
            "Steady Life Insurance": ("31 euros", "110 euros", "250,000 euros", "90 days", "Halden Life", "3 months"),
            "Paw Pet Insurance": ("16 euros", "60 euros", "8,000 euros", "21 days", "Fauna Mutual", "45 days"),
        },
    ),
    Topic(
        "branches",
        "Branches",
        "Branch",
        ("manager", "opening time", "phone number", "street address", "closing day", "largest room"),
        {
            "Quayside Branch": ("Ilse Brandt", "8:30", "555 0201", "4 Quay Street", "Sunday", "Gull Room"),
            "Market Square Branch": ("Jonas Petri", "9:00", "555 0214", "17 Market Square", "Monday", "Guild Room"),
            "Northgate Branch": ("Amira Haddad", "9:30", "555 0226", "52 North Road", "Wednesday", "Tower Room"),
            "Millbrook Branch": ("Stefan Kolar", "10:00", "555 0238", "9 Mill Lane", "Thursday", "Wheel Room"),
            "University Branch": ("Grace Okafor", "8:00", "555 0243", "120 College Avenue", "Saturday", "Ink Room"),
            "Island Branch": ("Henrik Dahl", "11:00", "555 0259", "1 Pier Road", "Tuesday", "Buoy Room"),
        },
    ),
    Topic(
        "committees",
        "Committees",
        "Committee",
        ("chair", "meeting day", "quorum", "term of office", "secretary"),
        {
            "Audit Committee": ("Ruth Calder", "first Tuesday", "4 members", "3 years", "Emil Sand"),
            "Credit Committee": ("Viktor Lund", "every Thursday", "3 members", "2 years", "Nora Pike"),
            "Ethics Committee": ("Samira Aziz", "last Monday", "5 members", "4 years", "Paul Weaver"),
            "Investment Committee": ("Diego Marsh", "second Friday", "6 members", "5 years", "Hanna Roth"),
            "Youth Committee": ("Freya Lindt", "third Saturday", "7 members", "1 year", "Leo Varga"),
        },
    ),
    Topic(
        "policies",
        "Policies",
        "Policy",
        ("policy owner", "review month", "response time", "approval limit", "form code"),
        {
            "Complaints Policy": ("Clara Benning", "March", "10 working days", "500 euros", "F12"),
            "Travel Expenses Policy": ("Oskar Thiel", "June", "5 working days", "1,200 euros", "F27"),
            "Remote Work Policy": ("Mina Sato", "September", "2 weeks", "350 euros", "F33"),
            "Privacy Policy": ("Elias Kroll", "January", "30 days", "2,500 euros", "F48"),
            "Purchasing Policy": ("Tessa Vogt", "November", "3 working days", "7,500 euros", "F59"),
        },
    ),
)

TOPICS_ADDED = (
    Topic(
        "solar",
        "Solar and green energy loans",
        "Energy offer",
        (
            "subsidy share",
            "certified installer",
            "equipment warranty",
            "feed-in tariff",
            "carbon saving",
            "energy audit price",
        ),
        {
            "Sunroof Solar Programme": (
                "20 percent",
                "Helio Craft",
                "25 years",
                "9 cents",
                "1.8 tonnes",
                "130 euros",
            ),
            "Heat Pump Programme": ("35 percent", "Thermo Nord", "10 years", "4 cents", "2.6 tonnes", "170 euros"),
            "Home Battery Programme": ("15 percent", "Volt Haus", "12 years", "11 cents", "0.7 tonnes", "95 euros"),
            "Wind Turbine Programme": ("40 percent", "Gale Works", "20 years", "6 cents", "3.9 tonnes", "260 euros"),
        },
    ),
    Topic(
        "ebikes",
        "E-bike leasing",
        "E-bike lease",
        ("leasing instalment", "riding range", "motor power", "battery capacity", "helmet voucher", "theft deductible"),
        {
            "Kestrel E-Bike Lease": (
                "49 euros",
                "110 kilometres",
                "250 watts",
                "500 watt hours",
                "40 euros",
                "70 euros",
            ),
            "Cargo E-Bike Lease": ("89 euros", "70 kilometres", "350 watts", "750 watt hours", "65 euros", "140 euros"),
            "Folding E-Bike Lease": (
                "38 euros",
                "45 kilometres",
                "180 watts",
                "320 watt hours",
                "30 euros",
                "55 euros",
            ),
        },
    ),
)

CHANGES: Mapping[tuple[str, str], str] = {
    (COOPERATIVE, "membership share"): "30 euros",
    ("Harbour Account", "annual fee"): "15 euros",
    ("Compass Account", "overdraft limit"): "1,800 euros",
    ("Acorn Savings Plan", "interest rate"): "1.6 percent",
    ("Granite Term Deposit", "savings adviser"): "Julia Stern",
    ("Cottage Home Loan", "borrowing rate"): "4.2 percent",
    ("Ferry Car Loan", "arrangement fee"): "140 euros",
    ("Sail Credit Card", "daily limit"): "1,400 euros",
    ("Voyage Travel Insurance", "monthly premium"): "9 euros",
    ("Northgate Branch", "manager"): "Bruno Keller",
    ("Credit Committee", "chair"): "Astrid Moen",
    ("Remote Work Policy", "review month"): "October",
}
"""Revision 2's new values by (entity, attribute)."""

WITHDRAWN = ("Harvest Prepaid Card", "Paw Pet Insurance")
"""Entities that revision 2 no longer mentions."""


def topics(revision: Revision) -> tuple[Topic, ...]:
    """The handbook's topics as the revision states them."""
    if revision == 1:
        return TOPICS_AT_FIRST
    return (*map(_revised, TOPICS_AT_FIRST), *TOPICS_ADDED)


def facts(revision: Revision) -> tuple[Fact, ...]:
    """Every fact of a revision, in the handbook's order."""
    return tuple(fact for topic in topics(revision) for fact in topic.facts())


def added_facts() -> tuple[Fact, ...]:
    """The facts of the subject that only revision 2 has."""
    return tuple(fact for topic in TOPICS_ADDED for fact in topic.facts())


def unchanged_facts() -> tuple[Fact, ...]:
    """The facts that both revisions state alike."""
    first = set(facts(1))
    return tuple(fact for fact in facts(2) if fact in first)


def _revised(topic: Topic) -> Topic:
    rows = {
        entity: tuple(CHANGES.get((entity, name), value) for name, value in zip(topic.attributes, values, strict=True))
        for entity, values in topic.rows.items()
        if entity not in WITHDRAWN
    }
    return Topic(topic.name, topic.title, topic.entity_column, topic.attributes, rows)
