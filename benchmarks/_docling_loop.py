"""The baseline: a plain single-process loop over files with docling's own converter, no model needed.

``python -m benchmarks._docling_loop FILES.json OUT.json`` converts each file to Markdown and writes seconds and counts.
"""

import json
import sys
import time
from pathlib import Path

STARTED_S = time.perf_counter()


def main(listed: Path, out: Path) -> None:
    """Convert what ``listed`` names, and write what it took."""
    from docling.datamodel.base_models import InputFormat
    from docling.document_converter import DocumentConverter, NativePdfFormatOption

    converter = DocumentConverter(format_options={InputFormat.PDF: NativePdfFormatOption()})
    paths = json.loads(listed.read_text())
    begun_s = time.perf_counter()
    converted = chars = pages = 0
    for path in paths:
        result = converter.convert(path, raises_on_error=False)
        if result.document is not None and result.status.value.endswith("success"):
            chars += len(result.document.export_to_markdown())
            pages += max(1, len(result.document.pages))
            converted += 1
    now_s = time.perf_counter()
    figures = {"start_s": begun_s - STARTED_S, "convert_s": now_s - begun_s, "num_converted": converted}
    out.write_text(json.dumps(figures | {"num_chars": chars, "num_pages": pages}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
