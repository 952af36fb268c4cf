"""Datasets as Croissant 1.1 descriptions, made and checked with ``mlcroissant``.

Guarantees: files with their sha256, and a record set for each Parquet table with every column. Not guaranteed: a
licence; where a dataset's facts name none, the description says so. The files themselves may be left out of a pack.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from app.core.digests import hex_of
from app.governance.pack.layout import STORE
from app.ledger.erasures import Erasures
from app.registry.versions import Registry, Version

KINDS = ("dataset", "synthetic", "suite")
NO_LICENCE = "not stated by the publisher"
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def describe(version: Version, *, registry: Registry, published_at: str, erasures: Erasures) -> dict[str, Any]:
    """The Croissant description (JSON-LD) of a version of one of ``KINDS``, as erasures left it.

    Raises:
        mlcroissant.ValidationError: something that the format asks for is missing.
    """
    import mlcroissant as mlc

    folder = registry.folder(version)
    context = mlc.Context(conforms_to="http://mlcommons.org/croissant/1.1")
    metadata = mlc.Metadata(
        ctx=context,
        name=UNSAFE.sub("-", version.name),
        description=f"{version.kind} {version.ref} ({version.digest}), as a Signalbox ledger has it.",
        version=f"{version.number}.0.0",
        url=f"urn:signalbox:{version.kind}:{version.digest}",
        license=[str(version.facts.get("license") or NO_LICENCE)],
        date_published=datetime.fromisoformat(published_at),
        creators=[mlc.Organization(ctx=context, name="the publisher of the ledger", url="urn:signalbox:ledger")],
        distribution=list(_files(context, version, erasures)),
        record_sets=list(_record_sets(context, version, folder)),
        cite_as=f"{version.kind} {version.ref}, {version.digest}",
    )
    described: dict[str, Any] = metadata.to_json()
    return described


def _files(context: Any, version: Version, erasures: Erasures) -> Iterator[Any]:
    import mlcroissant as mlc

    base = f"../{STORE}/{version.kind}/{hex_of(version.digest)}/files"
    for name, entry in sorted(version.manifest["files"].items()):
        digest = erasures.digest_now(version.kind, version.digest, name, entry["sha256"])
        if not digest:
            continue
        yield mlc.FileObject(
            ctx=context,
            id=_identity(name),
            name=_identity(name),
            content_url=f"{base}/{name}",
            content_size=f"{entry['bytes']} B",
            encoding_formats=[_encoding(name)],
            sha256=hex_of(digest),
        )


def _record_sets(context: Any, version: Version, folder: Path) -> Iterator[Any]:
    """A record set for every Parquet table that can be read here."""
    import mlcroissant as mlc
    import pyarrow.parquet as pq

    for name in sorted(version.manifest["files"]):
        path = folder / name
        if not name.endswith(".parquet") or not path.is_file():
            continue
        identity = f"{_identity(name)}-rows"
        fields = [_field(context, name, identity, column) for column in pq.read_schema(path)]
        yield mlc.RecordSet(ctx=context, id=identity, name=identity, fields=fields)


def _field(context: Any, file: str, table: str, column: Any) -> Any:
    import mlcroissant as mlc
    import pyarrow as pa

    many = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    kind = column.type.value_type if many else column.type
    source = mlc.Source(ctx=context, file_object=_identity(file), extract=mlc.Extract(ctx=context, column=column.name))
    repeated = {"is_array": True, "array_shape": "-1"} if many else {}
    return mlc.Field(
        ctx=context,
        id=f"{table}/{column.name}",
        name=f"{table}/{column.name}",
        data_types=[_data_type(kind)],
        source=source,
        **repeated,
    )


def _data_type(kind: Any) -> Any:
    import mlcroissant as mlc
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return mlc.DataType.BOOL
    if pa.types.is_integer(kind):
        return mlc.DataType.INTEGER
    if pa.types.is_floating(kind):
        return mlc.DataType.FLOAT
    return mlc.DataType.TEXT


def _identity(name: str) -> str:
    return UNSAFE.sub("-", name)


def _encoding(name: str) -> str:
    known = {".parquet": "application/x-parquet", ".json": "application/json", ".txt": "text/plain"}
    return known.get(Path(name).suffix, "application/octet-stream")
