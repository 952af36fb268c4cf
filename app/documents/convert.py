"""One document's bytes to sections, with docling. Imported by the sandboxed process only.

Guarantees: nothing is fetched from the network and no external file is read; headings keep their order and depth,
tables become pipe tables; what was left out of a document that is otherwise whole stands in its faults. Not guaranteed:
protection from hostile input, which is the sandbox's task; without docling's models, PDF headings and tables are
recovered from type sizes and positions (see layout.py).
"""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element

from docling.backend.docx.drawingml.utils import convert_to_modern_format, get_libreoffice_cmd
from docling.datamodel.backend_options import EmailBackendOptions, HTMLBackendOptions, MsExcelBackendOptions
from docling.datamodel.base_models import ConversionStatus, DocumentStream, InputFormat
from docling.datamodel.document import ConversionResult
from docling.datamodel.pipeline_options import PdfPipelineOptions
from docling.document_converter import (
    DocumentConverter,
    EmailFormatOption,
    ExcelFormatOption,
    FormatOption,
    HTMLFormatOption,
    PdfFormatOption,
)

from app.documents import guard
from app.documents.errors import CannotConvert
from app.documents.facts import archive_facts, facts_of_fields, front_matter, html_facts, iso_date, parse_xml
from app.documents.models import models_folder
from app.documents.nodes import read_document
from app.documents.pdf import PICTURES, read_pdf
from app.documents.regml import is_regml, read_regml
from app.documents.sections import Converted, Facts, Fault, one_line, title_from_name
from app.documents.settings import LimitSettings
from app.documents.text import convert_text

MACHINE_NUMBER = re.compile(r"\b(0x[0-9a-f]+|[0-9a-f]{32,})\b")
DAMAGED = re.compile(r"could not (load document|initialize)|File format not allowed", re.IGNORECASE)
DATE_LINE = re.compile(r"^Date: (\S+)$", re.MULTILINE)
ATTACHMENTS = "attachments"
MODERN = {"doc": "docx", "rtf": "docx", "ppt": "pptx", "xls": "xlsx"}
STREAM_NAMES = {"adoc": "document.asciidoc", "jats": "document.nxml", "uspto": "document.xml"}
JATS = re.compile(r"<article[\s>]|JATS|NLM//DTD", re.IGNORECASE)
USPTO = re.compile(r"<(us-patent|patent-application-publication|PATDOC)", re.IGNORECASE)
FORMATS = ("md", "html", "docx", "pptx", "xlsx", "csv", "asciidoc", "epub", "email", "xml_jats", "xml_uspto", "pdf")
PAGED = ("pptx", "xlsx", "pdf")
GRACE_S = 2.0


class DocumentReader:
    """Converts documents, one after another, with one set of docling pipelines.

    ``pdf`` says how PDFs are read: ``native`` by layout.py, ``full`` by docling's models.
    """

    def __init__(self, *, limits: LimitSettings, pdf: str = "native") -> None:
        self._limits, self._pdf = limits, pdf
        formats = [InputFormat(name) for name in FORMATS if name != "pdf" or pdf == "full"]
        self._docling = DocumentConverter(allowed_formats=formats, format_options=_options(formats))
        self._readers: dict[str, Callable[[bytes, str], Converted]] = {
            "txt": self._text,
            "md": self._markdown,
            "html": self._page,
            "pdf": self._full_pdf if pdf == "full" else self._native_pdf,
            "xml": self._xml,
            **dict.fromkeys(("eml", "msg"), self._mail),
        }

    def convert(self, data: bytes, *, name: str, kind: str) -> Converted:
        """Convert the bytes of one document of a known format.

        Raises:
            CannotConvert: with the reason.
        """
        if name.lower().endswith(".gz"):
            data = guard.gunzip(data, limits=self._limits)
        guard.check(data, kind=kind, limits=self._limits)
        title = title_from_name(name)
        if kind in MODERN:
            data, kind = self._modern(data, kind), MODERN[kind]
        if kind in self._readers:
            converted = self._readers[kind](data, title)
        else:
            converted = self._docling_reads(data, kind=kind, title=title)
        if kind in guard.ZIPPED:
            converted = converted.with_facts(archive_facts(data, kind=kind))
        if not converted.sections:
            raise CannotConvert(PICTURES.replace("on it", "in it"))
        return converted

    def rows(self, data: bytes, *, name: str) -> list[str]:
        """The rows of a JSON document, each as a line of JSON: those of its list, or itself.

        Raises:
            CannotConvert: it is not JSON.
        """
        if name.lower().endswith(".gz"):
            data = guard.gunzip(data, limits=self._limits)
        try:
            value = json.loads(decode(data))
        except (ValueError, RecursionError) as error:
            raise CannotConvert(f"not JSON: {error}") from error
        return [json.dumps(row) for row in _list_in(value)]

    def _text(self, data: bytes, title: str) -> Converted:
        return convert_text(decode(data), fallback_title=title)

    def _markdown(self, data: bytes, title: str) -> Converted:
        fields, text = front_matter(decode(data).replace("\r\n", "\n"))
        own = fields.get("title")
        own = one_line(own) if isinstance(own, str) else ""
        converted = self._docling_reads(text.encode(), kind="md", title=title, own=own)
        return converted.with_facts(facts_of_fields(fields))

    def _page(self, data: bytes, title: str) -> Converted:
        text = decode(data)
        return self._docling_reads(text.encode(), kind="html", title=title).with_facts(html_facts(text))

    def _native_pdf(self, data: bytes, title: str) -> Converted:
        return read_pdf(data, fallback_title=title, max_pages=self._limits.pages)

    def _full_pdf(self, data: bytes, title: str) -> Converted:
        return self._docling_reads(data, kind="pdf", title=title)

    def _xml(self, data: bytes, title: str) -> Converted:
        root: Element = parse_xml(data)
        if is_regml(root):
            return read_regml(root, fallback_title=title)
        head = data[:4096].decode("utf-8", "replace")
        kind = "uspto" if USPTO.search(head) else "jats" if JATS.search(head) else None
        if kind is None:
            name = str(root.tag).rsplit("}", 1)[-1][:60]
            raise CannotConvert(f"XML of an unknown kind ({name}): known are RegML, JATS and USPTO patents")
        return self._docling_reads(data, kind=kind, title=title)

    def _mail(self, data: bytes, title: str) -> Converted:
        kind = "msg" if data.startswith(guard.OLE_MAGIC) else "eml"
        result = self._result(data, name=f"document.{kind}")
        document = result.document
        labels = [item.text for item in document.texts if item.parent and _group(item, document) == ATTACHMENTS]
        converted = read_document(document, fallback_title=title)
        kept = [part for part in converted.sections if part.heading_path[-1:] != (ATTACHMENTS.title(),)]
        sent = DATE_LINE.search("\n".join(part.text for part in kept))
        reason = "an attachment is not read: save it as a file of its own"
        faults = tuple(Fault(f"attachment-{number}-{label}", reason) for number, label in enumerate(labels, start=1))
        facts = Facts(created=iso_date(sent.group(1)) if sent else None)
        return replace(converted, sections=tuple(kept), facts=facts, faults=faults)

    def _modern(self, data: bytes, kind: str) -> bytes:
        """An old Office file as a new one, by LibreOffice with macros off and in a profile of its own."""
        if get_libreoffice_cmd() is None:
            raise CannotConvert(
                f"a .{kind} file needs LibreOffice, which is not installed: install it (soffice on the PATH), "
                f"or save the file as .{MODERN[kind]}"
            )
        limit_s = max(1, int(self._limits.timeout_s - GRACE_S))
        try:
            modern: bytes = convert_to_modern_format(BytesIO(data), kind, MODERN[kind], timeout_s=limit_s).getvalue()
        except subprocess.TimeoutExpired as error:
            raise CannotConvert(
                f"not converted within {limit_s} s by LibreOffice (documents.limits.timeout_s)"
            ) from error
        except (subprocess.SubprocessError, RuntimeError, OSError, ValueError) as error:
            raise CannotConvert("LibreOffice could not read it (damaged, or encrypted with a password)") from error
        return modern

    def _docling_reads(self, data: bytes, *, kind: str, title: str, own: str = "") -> Converted:
        if kind in ("csv", "adoc"):
            data = decode(data).encode()
        result = self._result(data, name=STREAM_NAMES.get(kind, f"document.{kind}"))
        converted = read_document(result.document, fallback_title=title, title=own)
        num_pages = len(result.document.pages) or None if kind in PAGED else None
        faults = tuple(
            Fault(f"page-{error.page_no}", one_line(error.error_message)) for error in result.errors if error.page_no
        )
        return replace(converted, facts=Facts(num_pages=num_pages), faults=faults)

    def _result(self, data: bytes, *, name: str) -> ConversionResult:
        """What docling makes of a document; a partial result only where it says which pages are missing."""
        result = self._docling.convert(DocumentStream(name=name, stream=BytesIO(data)), raises_on_error=False)
        partial = result.status is ConversionStatus.PARTIAL_SUCCESS and all(error.page_no for error in result.errors)
        if result.status is not ConversionStatus.SUCCESS and not partial:
            raise CannotConvert(_reason(result))
        return result


def decode(data: bytes) -> str:
    """UTF-8, UTF-16 with its mark, or else Windows-1252; unknown bytes show as the replacement character.

    Raises:
        CannotConvert: the bytes are those of a binary file.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if data.startswith((b"\x89PNG", b"PK\x03\x04", b"%PDF", guard.OLE_MAGIC)) or b"\0\0\0" in data[:4096]:
        raise CannotConvert("not text: the bytes are those of a binary file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _options(formats: list[InputFormat]) -> dict[InputFormat, FormatOption]:
    options: dict[InputFormat, FormatOption] = {
        InputFormat.HTML: HTMLFormatOption(backend_options=HTMLBackendOptions(infer_furniture=False, add_title=True)),
        InputFormat.XLSX: ExcelFormatOption(backend_options=MsExcelBackendOptions(parse_charts=False)),
        InputFormat.EMAIL: EmailFormatOption(backend_options=EmailBackendOptions(list_attachments=True)),
    }
    if InputFormat.PDF in formats:
        pipeline = PdfPipelineOptions(artifacts_path=models_folder(), generate_page_images=False)
        options[InputFormat.PDF] = PdfFormatOption(pipeline_options=pipeline)
    return options


def _list_in(value: Any) -> list[Any]:
    """The rows in a JSON value: a list, the only list of objects in an object, or the value itself."""
    if isinstance(value, list):
        return value
    lists = [part for part in value.values() if _is_rows(part)] if isinstance(value, dict) else []
    return lists[0] if len(lists) == 1 else [value]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _group(item: Any, document: Any) -> str:
    return str(getattr(item.parent.resolve(document), "name", ""))


def _reason(result: ConversionResult) -> str:
    """Docling's first error on one line, without addresses and digests, so that a second run gives the same reason."""
    messages = [one_line(error.error_message) for error in result.errors if error.error_message.strip()]
    message = MACHINE_NUMBER.sub("...", messages[0]) if messages else f"docling reports {result.status.value}"
    return f"damaged, or not the format that its name says: {message}" if DAMAGED.search(message) else message
