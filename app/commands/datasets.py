"""`signalbox datasets`: versions of documents, rows and suites: listed, shown with their quality, compared, written."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.errors import UsageError
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.registry.versions import Registry, Version

KINDS = ("dataset", "synthetic", "suite")
MAX_SHOWN = 5
FORMATS = (
    "messages, alpaca, pairs, preferences, document, labelled, tokens, requests, signalbox, instructlab, parquet or csv"
)

app = group("datasets", "Versions of documents, rows and suites: what they hold, how good it is, and what changed.")

RefArgument = Annotated[str, typer.Argument(help="name, name@number or digest; KIND/NAME where a name is not clear.")]


@app.command("list")
def list_versions(
    name: Annotated[str | None, typer.Argument(help="Only versions of this name.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every version of a dataset, of synthetic rows and of a suite, oldest first."""
    registry = _registry(workspace)
    found = [version for version in registry.versions(name=name) if version.kind in KINDS]
    if as_json:
        typer.echo(json.dumps([_described(version) for version in found], indent=2))
        return
    for version in found:
        counts = ", ".join(f"{version.facts[key]:,} {key[4:]}" for key in _COUNTS if version.facts.get(key))
        typer.echo(f"{version.kind:<10} {version.ref:<32} {version.short}  {version.created_at[:19]}  {counts}")
    if not found:
        typer.echo("no dataset has been published yet: run jobs.ingest for documents, or jobs.curate for rows")


@app.command()
def show(
    ref: RefArgument,
    html: Annotated[Path | None, typer.Option(help="Write the quality report with plots to this HTML file.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a version is made of, its splits, its quality report, and the first rejects with their reasons."""
    registry = _registry(workspace)
    version = _find(registry, ref)
    reported = _reported(registry, version)
    quality, rejects = _quality(reported), _table(registry.folder(version), "rejects")
    if html:
        _write_page(html, version, reported, quality, rejects)
    if as_json:
        whole = {**_described(version), "parents": version.parents, "inputs": version.manifest["inputs"]}
        typer.echo(json.dumps({**whole, "quality": quality, "rejects": rejects}, indent=2))
        return
    typer.echo(f"wrote {html}" if html else "\n".join(_shown(version, quality, rejects)))


@app.command()
def diff(
    before: RefArgument,
    after: Annotated[str, typer.Argument(help="The later version; only its number is enough.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: rows (or chunks) added, removed, changed, and moved to another split."""
    from app.datasets.diff import compare

    registry = _registry(workspace)
    first = _find(registry, before)
    second = _find(registry, f"{first.kind}/{first.name}@{after}" if after.isdigit() else after)
    found = compare(first, second, registry=registry).to_json()
    if as_json:
        typer.echo(json.dumps({"before": first.ref, "after": second.ref, **found}, indent=2))
        return
    counts = ", ".join(f"{number:,} {name}" for name, number in found["counts"].items())
    typer.echo(f"{first.ref} -> {second.ref}: {counts}")
    for mark, rows in (("+", found["added"]), ("-", found["removed"]), ("~", found["changed"])):
        for row in rows[:MAX_SHOWN]:
            columns = f"  ({', '.join(row['columns'])})" if mark == "~" else ""
            typer.echo(f"  {mark} {row['text']}{columns}")
        if len(rows) > MAX_SHOWN:
            typer.echo(f"  {mark} and {len(rows) - MAX_SHOWN:,} more, all of them with --json")


@app.command()
def export(
    ref: RefArgument,
    out: Annotated[Path, typer.Option(help="File to write; for instructlab, a folder.")],
    format_name: Annotated[str, typer.Option("--format", help=f"{FORMATS}.")] = "messages",
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version's rows in a format that other programs read. What it cannot hold goes to OUT.rejects.jsonl."""
    from app.datasets.curate import rows_of
    from app.datasets.export import export_rows

    registry = _registry(workspace)
    version = _find(registry, ref)
    rows = [row for row in rows_of(version, registry) if split in (None, row["split"])]
    num, refused = export_rows(rows, out, format_name=format_name)
    if as_json:
        typer.echo(json.dumps({"ref": version.ref, "out": str(out), "num_rows": num, "refused": refused}))
        return
    typer.echo(f"wrote {num:,} of {len(rows):,} rows of {version.ref} to {out}")
    for each in refused[:MAX_SHOWN]:
        typer.echo(f"  not {each['row_id']}: {each['reason']}")


_COUNTS = ("num_documents", "num_chunks", "num_rows", "num_rejected")


def _registry(workspace: Path | None) -> "Registry":
    from app.registry.versions import open_registry

    return open_registry(Workspace.existing(workspace))


def _find(registry: "Registry", ref: str) -> "Version":
    """A version of one of the kinds; a name that several have means documents before rows before suites."""
    from app.registry.versions import VersionNotFound

    kind, separator, name = ref.partition("/")
    if separator and kind in KINDS:
        return registry.get(kind, name)
    for each in KINDS:
        try:
            return registry.get(each, ref)
        except VersionNotFound:
            continue
    return registry.get(KINDS[0], ref)


def _described(version: "Version") -> dict[str, Any]:
    named = {"kind": version.kind, "ref": version.ref, "digest": version.digest, "created_at": version.created_at}
    return {**named, "facts": version.facts}


def _reported(registry: "Registry", version: "Version") -> Path | None:
    """The folder of the version's quality report: its own, or that of the report made of it afterwards."""
    from app.datasets.schema import QUALITY_FILE

    made = [each for each in registry.versions("quality", version.name) if each.parents == [version.digest]]
    folders = (registry.folder(each) for each in (version, *reversed(made)))
    return next((folder for folder in folders if (folder / QUALITY_FILE).exists()), None)


def _quality(folder: Path | None) -> dict[str, Any] | None:
    from app.datasets.schema import QUALITY_FILE

    return json.loads((folder / QUALITY_FILE).read_text(encoding="utf-8")) if folder else None


def _table(folder: Path, name: str) -> list[dict[str, Any]]:
    from app.core.parquet import read_rows

    path = folder / f"{name}.parquet"
    return read_rows(path) if path.exists() else []


def _write_page(
    path: Path,
    version: "Version",
    reported: Path | None,
    quality: dict[str, Any] | None,
    rejects: list[dict[str, Any]],
) -> None:
    from app.console.quality import render_page
    from app.core.files import replace_text

    if reported is None or quality is None:
        raise UsageError(f"{version.kind} {version.ref} has no quality report: make one with jobs.curate --of")
    named = {"kind": version.kind, "ref": version.ref, "digest": version.digest, "published": version.created_at}
    replace_text(path, render_page(named, quality=quality, findings=_table(reported, "findings"), rejects=rejects))


def _shown(version: "Version", quality: dict[str, Any] | None, rejects: list[dict[str, Any]]) -> list[str]:
    lines = [f"{version.kind} {version.ref}  {version.digest}", f"  published {version.created_at}"]
    facts = {name: value for name, value in version.facts.items() if name != "quality"}
    lines += [f"  {name}: {json.dumps(value)}" for name, value in facts.items()]
    lines += _quality_lines(quality) if quality else ["quality: no report yet; jobs.curate --of makes one"]
    if rejects:
        lines.append(f"rejects: {len(rejects):,}")
    for row in rejects[:MAX_SHOWN]:
        place = f":{row['place']}" if row.get("place") else ""
        lines.append(f"  {row.get('source') or row.get('chunk_id')}{place} {row['reason']}")
    return lines


def _quality_lines(quality: dict[str, Any]) -> list[str]:
    lines = [f"quality: {quality['num_rows']:,} of {quality['num_read']:,} records are rows"]
    for stage, number in quality["rejected_by_stage"].items():
        lines.append(f"  {number:>9,} rejected: {stage}")
    for finding, number in quality["rows_with_finding"].items():
        more = f" ({_pairs(quality['personal_by_kind'])})" if finding == "personal" else ""
        lines.append(f"  {number:>9,} rows with {finding}{more}: {quality['actions'][finding]}")
    lines.append(f"  characters: {_pairs(quality['chars'])}; languages: {_pairs(quality['languages'])}")
    lines.append(f"  near-duplicates across splits: {quality['near_duplicates_across_splits']:,}")
    return lines + [f"  {name}: {how}" for name, how in quality["looks"].items() if how.startswith("not ")]


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())
