"""Settings of the documents stage: how files are read, converted under limits, and cut into chunks."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from app.core.settings import Settings

MIB = 1 << 20


class LimitSettings(Settings):
    """What one document may cost before it is given up and becomes a reject."""

    timeout_s: PositiveFloat = 30.0
    """Wall-clock seconds for the conversion of one document."""

    memory_bytes: PositiveInt = Field(1536 * MIB, ge=64 * MIB)
    """Address space that a conversion may take on top of the idle converter's."""

    document_bytes: PositiveInt = 64 * MIB
    """Size of a source file, or of one row of a JSON Lines file."""

    unpacked_bytes: PositiveInt = 512 * MIB
    """Size of a zipped office file or a gzipped file once unpacked."""

    unpack_ratio: PositiveFloat = 200.0
    """Unpacked size over packed size, above which a file is taken for a bomb; files under 8 MiB unpacked are exempt."""

    text_chars: PositiveInt = 16_000_000
    """Characters of converted text."""

    pages: PositiveInt = 5_000
    """Pages of a PDF."""


class ChunkSettings(Settings):
    """How a document is cut into chunks."""

    max_tokens: PositiveInt = 192
    """Upper bound of a chunk in encoder tokens, heading path not counted; a table row that exceeds it stays whole."""

    max_table_tokens: PositiveInt = 64
    """The bound for chunks of a table, their repeated header counted: few rows in a vector are found better."""

    parent_tokens: PositiveInt = 1024
    """Upper bound of a parent, the part of a section that chunks are cut from; a longer table or paragraph is one."""

    overlap_tokens: NonNegativeInt = 0
    """Tokens of running text repeated from the chunk before; 0 switches overlap off."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap_tokens >= self.max_tokens:
            raise ValueError("documents.chunk.overlap_tokens must be smaller than documents.chunk.max_tokens")
        return self


class DocumentSettings(Settings):
    """The documents stage."""

    chunk: ChunkSettings = ChunkSettings()
    """How a document is cut into chunks."""

    limits: LimitSettings = LimitSettings()
    """What one document may cost."""

    base_uri: str = ""
    """What a document's path is put behind where the document names no address of its own; empty: the path alone."""

    licence: str | None = None
    """The licence of documents that name none, best an SPDX identifier."""

    pdf: Literal["auto", "native", "full"] = "auto"
    """How PDFs are read: `full` by Docling's layout models and OCR, `native` from fonts and positions; `auto` takes
    the models where they are installed."""

    num_workers: PositiveInt = 2
    """Conversion actors, each with one sandboxed converter process."""

    batch_size: PositiveInt = 16
    """Files handed to an actor at a time, at most; a run that was killed loses at most so many of each actor's."""

    worker_memory_bytes: PositiveInt = 512 * MIB
    """Memory that Ray reserves for an actor and its converter."""

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of a version; how many workers do the work does not."""
        return self.model_dump(mode="json", include={"chunk", "limits", "base_uri", "licence", "pdf"})
