"""The quality report on a dataset version as one HTML page with plots.

Guarantees: the page needs no other file and no network; everything in it is escaped; it says how many findings and
rejects there are beside those that it shows. Not guaranteed: rows in it; a finding names its row and repeats no
personal data, a reject's reason may quote a few words of its record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 200


def render_page(
    version: Mapping[str, Any],
    *,
    quality: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, Any]],
) -> str:
    """The page.

    Args:
        version: ``kind``, ``ref``, ``digest`` and ``published``.
        quality: the report, as ``quality.json`` holds it.
        findings: rows of the table of findings.
        rejects: rows of the version's rejects table.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("app.console", "."), autoescape=True)
    page = environment.get_template("quality.html.j2")
    tables = {"findings": findings, "rejects": rejects, "looks": looks_of(quality)}
    return page.render(**version, quality=quality, **tables, plots=_plots(quality), limit=LIMIT, shown=_shown)


def looks_of(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every look, with the rows that it found something in, what is done about these, and how it is taken."""
    found, actions = quality["rows_with_finding"], quality["actions"]
    names = dict.fromkeys([*quality["looks"], *found])
    return [
        {
            "name": name,
            "num": found.get(name, 0),
            "action": actions.get(name, ""),
            "how": quality["looks"].get(name, ""),
        }
        for name in names
    ]


def _plots(quality: Mapping[str, Any]) -> list[str]:
    from app.console.plots import counts

    drawn = {
        "Rows with a finding": quality["rows_with_finding"],
        "Personal data by kind": quality["personal_by_kind"],
        "Rejected records": quality["rejected_by_stage"],
        "Languages": quality["languages"],
        "Splits": quality["splits"],
        "Characters of a row": quality["chars"],
    }
    return [counts(title, numbers) for title, numbers in drawn.items() if numbers]


def _shown(rows: Sequence[object]) -> str:
    if len(rows) > LIMIT:
        return f"The first {LIMIT:,} of {len(rows):,}."
    return f"{len(rows):,} in all." if rows else "None."
