"""Rows from elsewhere as dataset versions: formats, quality, splits, differences."""
