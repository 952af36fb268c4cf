"""The settings tree: a file changes what it names and nothing else, and says so when it names something unknown."""

import pytest

from app.settings import BadSettings, SignalboxSettings, load_settings


@pytest.fixture
def load(tmp_path):
    def loaded(text):
        (tmp_path / "settings.yaml").write_text(text)
        return load_settings(tmp_path / "settings.yaml")

    return loaded


def test_no_file_gives_the_local_profile():
    assert load_settings() == SignalboxSettings()
    assert load_settings().training.small_lora.recipe == "lora"


def test_a_file_changes_what_it_names_and_keeps_the_rest(load):
    loaded = load("training:\n  small_lora:\n    num_steps: 7\n")
    assert loaded.training.small_lora.num_steps == 7
    assert loaded.training.small_lora.recipe == "lora"
    assert loaded.training.small_sft == load_settings().training.small_sft


def test_the_environment_beats_the_file(load, monkeypatch):
    monkeypatch.setenv("SIGNALBOX_MONITORING__PERIOD_S", "1.5")
    loaded = load("monitoring:\n  period_s: 3\n  window_size: 40\n")
    assert (loaded.monitoring.period_s, loaded.monitoring.window_size) == (1.5, 40)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("documnets: {}", "did you mean 'documents'"),
        ("training:\n  small_sft:\n    num_step: 3\n", "did you mean 'num_steps'"),
        ("training:\n  small_sft:\n    num_steps: 0\n", "training.small_sft.num_steps"),
        ("- a\n", "must hold settings by name"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(load, text, said):
    with pytest.raises(BadSettings, match=said) as raised:
        load(text)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadSettings, match="name another with --config"):
        load_settings(tmp_path / "none.yaml")
