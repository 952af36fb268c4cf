"""What DeepSpeed is imported with: a folder for what it compiles, and nothing of what its autotuner alone would use."""

import sys

import pytest

from app.training import extensions
from app.training.extensions import UNUSED, VARIABLE, extensions_dir, without_autotuning


def test_each_installation_compiles_into_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    here = extensions_dir()
    monkeypatch.setattr(sys, "prefix", "/another/installation")
    assert here != extensions_dir()
    assert here.parent == extensions_dir().parent == tmp_path / ".cache/signalbox/torch_extensions"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert extensions_dir() == tmp_path / "mine"
    assert extensions_dir().is_dir()


def test_what_is_left_out_can_be_imported_afterwards_and_stays_where_it_was_in_use(monkeypatch):
    used, left_out = UNUSED
    monkeypatch.setitem(sys.modules, used, sys)
    monkeypatch.delitem(sys.modules, left_out, raising=False)
    with without_autotuning():
        assert sys.modules[used] is sys
        with pytest.raises(ImportError):
            __import__(left_out)
    assert left_out not in sys.modules


@pytest.mark.parametrize(
    ("asked", "has_bf16", "on_gpu", "expected"),
    [
        ("auto", True, False, "bfloat16"),
        ("auto", False, False, "float32"),
        ("auto", False, True, "bfloat16"),
        ("bfloat16", False, False, "bfloat16"),
        ("float32", True, True, "float32"),
    ],
)
def test_numbers_are_of_the_type_that_the_hardware_multiplies(monkeypatch, asked, has_bf16, on_gpu, expected):
    monkeypatch.setattr(extensions, "computes_bf16", lambda: has_bf16)
    monkeypatch.setattr(extensions, "on_gpu", lambda: on_gpu)
    assert extensions.number_type(asked) == expected
