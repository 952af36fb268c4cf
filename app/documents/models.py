"""Whether docling's own models and LibreOffice are there, and which converters a version is made with.

Docling's layout and table models are found where docling looks for them: ``DOCLING_ARTIFACTS_PATH``, or
``docling-tools models download``'s default folder; the package that runs them is ``docling-ibm-models``.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

PACKAGES = ("docling-slim", "docling-core", "docling-parse", "docling-ibm-models", "mail-parser", "python-oxmsg")
FULL_PACKAGES = ("docling_ibm_models", "torchvision")
DEFAULT_FOLDER = "~/.cache/docling/models"


def models_folder() -> Path | None:
    """The folder of docling's models, or None where there is none."""
    folder = Path(os.environ.get("DOCLING_ARTIFACTS_PATH") or DEFAULT_FOLDER).expanduser()
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def pdf_reader(wanted: str) -> str:
    """``full`` where docling's models are installed and wanted, else ``native``; ``full`` asked for stays ``full``."""
    if wanted != "auto":
        return wanted
    installed = all(find_spec(name) is not None for name in FULL_PACKAGES)
    return "full" if installed and models_folder() is not None else "native"


def libreoffice() -> bool:
    """Whether LibreOffice, which reads old Office files, is installed."""
    return bool(os.environ.get("DOCLING_LIBREOFFICE_CMD") or which("libreoffice") or which("soffice"))


def converter_versions(wanted: str) -> dict[str, str]:
    """What converts documents here: how PDFs are read, and the version of each package that is installed."""
    return {"pdf": pdf_reader(wanted), **{name: found for name in PACKAGES if (found := _version(name))}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
