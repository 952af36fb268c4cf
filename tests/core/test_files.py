"""A small file is read with one sentence for whatever is wrong, and replaced whole."""

import pytest

from app.core.files import FileUnusable, read_yaml, replace_text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read .* \\(No such file or directory\\)"),
        (b"name: \xff\xfe", "not text in UTF-8"),
        (b"a: [", "is not YAML"),
        (b"- a", "is not a mapping"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileUnusable, match=said) as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_an_empty_file_holds_nothing(tmp_path):
    (tmp_path / "x.yaml").write_text("# only a remark\n")
    assert read_yaml(tmp_path / "x.yaml") == {}


def test_a_replaced_file_leaves_nothing_beside_it(tmp_path):
    for text in ("one", "two"):
        replace_text(tmp_path / "x.json", text)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.json", "two")]


def test_a_failed_write_leaves_the_old_text(tmp_path):
    replace_text(tmp_path / "x.json", "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(tmp_path / "x.json", "\ud800")
    assert (tmp_path / "x.json").read_text() == "old"


@pytest.mark.parametrize("name", ["folder", "nowhere/x.json"])
def test_what_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileUnusable, match="cannot write"):
        replace_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
