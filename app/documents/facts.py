"""What a document says of itself beside its text: dates, language, licence, address and pages, by format. Pure.

Guarantees: facts that are missing or malformed are None, never an error; dates come out as ISO 8601, to the day where
no time is given. Not guaranteed: that what a document says of itself is true.
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from app.documents.errors import BadLabels, CannotConvert
from app.documents.sections import Facts, one_line

LABELS = "access_labels"
LABEL = re.compile(r"^\S(.*\S)?$")
CORE_PROPERTIES = "docProps/core.xml"
HEAD_CHARS = 65_536
MAX_FACT_CHARS = 300
FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
TAG = re.compile(r"<(html|meta|link|time|title)\b([^>]{0,2000})>", re.IGNORECASE)
ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
PDF_DATE = re.compile(r"^(?:D:)?(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:([+-])(\d{2})'?(\d{2})?|Z)?")
LANGUAGE = re.compile(r"^[A-Za-z]{2}(?=$|[-_])")
UNREADABLE = (zipfile.BadZipFile, CannotConvert)
ISO_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")
FIELDS = {
    "language": ("language", "lang", "locale"),
    "created": ("created", "date", "published", "pubdate", "date_published", "created_at", "datepublished", "issued"),
    "modified": ("modified", "updated", "lastmod", "updated_at", "last_modified", "date_modified", "datemodified"),
    "uri": ("url", "uri", "link", "canonical", "source_url", "permalink"),
    "licence": ("licence", "license", "rights"),
}
META = {
    "language": ("dc.language", "dcterms.language", "og:locale"),
    "created": ("article:published_time", "dc.date", "dcterms.created", "dcterms.issued", "date", "datepublished"),
    "modified": ("article:modified_time", "dcterms.modified", "last-modified", "datemodified"),
    "uri": ("og:url", "dc.identifier"),
    "licence": ("dcterms.license", "dc.rights", "dcterms.rights", "license", "licence"),
}
OFFICE = {"created": ("created",), "modified": ("modified",), "language": ("language",)}
EPUB = {"created": ("date",), "language": ("language",), "licence": ("rights",)}


def facts_of_fields(fields: Mapping[str, Any], *, names: Mapping[str, tuple[str, ...]] = FIELDS) -> Facts:
    """Facts from named values, as in a row, a front matter or a page's meta elements; names are in lower case.

    Raises:
        BadLabels: access labels are there, but no list of words.
    """
    found = {fact: next((fields[name] for name in keys if fields.get(name)), None) for fact, keys in names.items()}
    return Facts(
        language=language_code(found.get("language")),
        created=iso_date(found.get("created")),
        modified=iso_date(found.get("modified")),
        uri=_uri(found.get("uri")),
        licence=_short(found.get("licence")),
        access_labels=labels_of(fields),
    )


def labels_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The access labels among named values: a list of words, or words with commas between.

    Raises:
        BadLabels: what is there is something else.
    """
    if LABELS not in fields:
        return ()
    value = fields[LABELS]
    labels = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(labels, list) or not all(isinstance(each, str) and LABEL.match(each) for each in labels):
        raise BadLabels(f"{LABELS} must be a list of words, as [hr, board]")
    return tuple(sorted(set(labels)))


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The fields of a YAML front matter, by names in lower case, and the text below it.

    Raises:
        BadLabels: it names access labels, but is not YAML.
    """
    match = FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    import yaml

    try:
        fields = yaml.safe_load(match.group(1))
    except (yaml.YAMLError, ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        if LABELS in match.group(1).lower():
            raise BadLabels(f"its front matter names {LABELS} but is not YAML: mend it")
        return {}, text
    return {str(name).lower(): value for name, value in fields.items()}, text[match.end() :]


def html_facts(text: str) -> Facts:
    """Facts of a page: its language, meta elements, canonical address and licence."""
    fields: dict[str, str] = {}
    for tag, inside in TAG.findall(text[:HEAD_CHARS]):
        own = {name.lower(): a or b or c for name, a, b, c in ATTRIBUTE.findall(inside)}
        if tag.lower() == "html":
            fields.setdefault("dc.language", own.get("lang", ""))
        elif tag.lower() == "meta":
            name = own.get("name") or own.get("property") or own.get("itemprop") or own.get("http-equiv") or ""
            fields.setdefault(name.lower(), own.get("content", ""))
        elif tag.lower() == "link" and own.get("rel", "").lower() in ("canonical", "license"):
            name = "og:url" if own["rel"].lower() == "canonical" else "dcterms.license"
            fields[name] = own.get("href", "")
    return facts_of_fields(fields, names=META)


def archive_facts(data: bytes, *, kind: str) -> Facts:
    """Facts of a zipped office file or an EPUB."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            root = parse_xml(archive.read(_package(archive) if kind == "epub" else CORE_PROPERTIES))
    except (
        KeyError,
        OSError,
        ValueError,
        NotImplementedError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        CannotConvert,
    ):
        return Facts()
    fields = {_local(element): one_line(element.text or "") for element in reversed(list(root.iter()))}
    facts = facts_of_fields(fields, names=EPUB if kind == "epub" else OFFICE)
    return Facts(facts.language, facts.created, facts.modified or _epub_modified(root), licence=facts.licence)


def pdf_facts(info: Mapping[str, str], *, num_pages: int) -> Facts:
    """Facts from a PDF's document information dictionary (ISO 32000, 14.3.3)."""
    return Facts(
        created=_pdf_date(info.get("CreationDate", "")),
        modified=_pdf_date(info.get("ModDate", "")),
        num_pages=num_pages,
    )


def parse_xml(data: bytes) -> Element:
    """The root of an XML document without entities.

    Raises:
        CannotConvert: it is malformed, or declares entities.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError, RecursionError) as error:
        raise CannotConvert(f"not well-formed XML: {one_line(str(error))[:200]}") from error
    return root


def language_code(value: Any) -> str | None:
    """The ISO 639-1 code in front of a language tag (BCP 47), or None."""
    match = LANGUAGE.match(value.strip()) if isinstance(value, str) else None
    return match.group().lower() if match else None


def iso_date(value: Any) -> str | None:
    """A date as ISO 8601, in UTC where it has a time zone, or None where it is none."""
    if isinstance(value, datetime):
        return _stamp(value)
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str) or not 8 <= len(value.strip()) <= 64:
        return None
    text = value.strip()
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return text if ISO_DATE.match(text) else _stamp(moment)
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _stamp(moment: datetime) -> str:
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _pdf_date(text: str) -> str | None:
    match = PDF_DATE.match(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, sign, over, minutes = match.groups()
    zone = f"{sign}{over}:{minutes or '00'}" if sign else "+00:00"
    clock = f"T{hour}:{minute or '00'}:{second or '00'}{zone}" if hour else ""
    return iso_date(f"{year}-{month or '01'}-{day or '01'}{clock}")


def _package(archive: zipfile.ZipFile) -> str:
    """The path of an EPUB's package document (EPUB OCF 3, 3.5.2)."""
    container = parse_xml(archive.read("META-INF/container.xml"))
    return next(element.attrib["full-path"] for element in container.iter() if "full-path" in element.attrib)


def _epub_modified(root: Element) -> str | None:
    marks = (element for element in root.iter() if element.attrib.get("property") == "dcterms:modified")
    return next((iso_date(element.text) for element in marks), None)


def _local(element: Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1].lower()


def _uri(value: Any) -> str | None:
    text = _short(value)
    return text if text and re.match(r"^[a-z][a-z0-9+.-]*:[^\s]+$", text, re.IGNORECASE) else None


def _short(value: Any) -> str | None:
    text = one_line(value)[:MAX_FACT_CHARS] if isinstance(value, str) else ""
    return text or None
