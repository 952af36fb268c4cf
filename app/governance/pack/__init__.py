"""Evidence packs: everything an auditor needs about one release, in one zip that stands alone."""
