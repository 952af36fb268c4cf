"""Settings refuse what they do not know, and say what was meant."""

import pytest
from pydantic import ValidationError

from app.core.settings import Settings


class Cut(Settings):
    """An example."""

    max_tokens: int = 256
    """An upper bound."""


def test_a_docstring_under_a_field_is_its_description():
    assert Cut.model_fields["max_tokens"].description == "An upper bound."


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Cut().max_tokens = 3


@pytest.mark.parametrize(("key", "hint"), [("max_token", "did you mean 'max_tokens'"), ("zzz", "known are max_tokens")])
def test_an_unknown_key_is_refused_by_name(key, hint):
    with pytest.raises(ValidationError, match=f"unknown setting '{key}' in Cut: {hint}"):
        Cut.model_validate({key: 1})
