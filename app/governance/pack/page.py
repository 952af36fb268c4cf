"""The pack's report for people: one HTML page that needs no other file."""

from app.governance.pack.contents import Contents
from app.ledger.note import Checkpoint
from app.registry.versions import Registry


def render_page(contents: Contents, *, registry: Registry, checkpoint: Checkpoint) -> str:
    """The page of a pack."""
    assert registry.ledger.origin == checkpoint.origin
    return f"<!doctype html>\n<title>{contents.release.ref}</title>\n"
