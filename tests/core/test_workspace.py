"""A workspace is found where one would look, and private."""

import pytest

from app.core.workspace import Workspace, WorkspaceUnusable


def test_an_argument_beats_the_environment_beats_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace.find().root == tmp_path / ".signalbox"
    monkeypatch.setenv("SIGNALBOX_WORKSPACE", str(tmp_path / "named"))
    assert Workspace.find().root == tmp_path / "named"
    assert Workspace.find(tmp_path / "given").root == tmp_path / "given"


def test_a_new_workspace_is_its_owners_alone(tmp_path):
    assert Workspace.find(tmp_path / "w").root.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(WorkspaceUnusable, match="name a writable folder"):
        Workspace.find(tmp_path / "w")
