"""Equal rows give equal bytes."""

import pyarrow as pa
import pytest

from app.core.parquet import read_rows, write_rows

SCHEMA = pa.schema([("name", pa.string()), ("path", pa.list_(pa.string())), ("num", pa.int64())])
ROWS = [{"name": "a", "path": ["x", "y"], "num": 1}, {"name": "b", "path": [], "num": 2}]


def test_rows_come_back_as_they_were(tmp_path):
    assert write_rows(tmp_path / "x.parquet", ROWS, schema=SCHEMA) == 2
    assert read_rows(tmp_path / "x.parquet") == ROWS


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("x", "y"):
        write_rows(tmp_path / name, ROWS, schema=SCHEMA)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_value_of_the_wrong_type_is_refused(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write_rows(tmp_path / "x", [{"name": "a", "path": [], "num": "one"}], schema=SCHEMA)


def test_a_missing_column_is_refused(tmp_path):
    with pytest.raises(KeyError, match="num"):
        write_rows(tmp_path / "x", [{"name": "a", "path": []}], schema=SCHEMA)
