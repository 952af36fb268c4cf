"""What every settings class derives from.

Guarantees: settings are frozen, checked when built, and refuse unknown keys by name with the nearest known one.
"""

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Settings(BaseModel):
    """A frozen group of settings; an unknown key is a ValueError that names the nearest known key."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        refuse_unknown_keys(cls, data)
        return data


def first_fault(error: ValidationError) -> str:
    """The first thing that a validation found, on one line: the place and what is wrong there."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def refuse_unknown_keys(model: type[BaseModel], data: Any) -> None:
    """Raise a ValueError for the first key that ``model`` does not know, with the nearest one that it does."""
    for key in data if isinstance(data, dict) else ():
        if key not in model.model_fields:
            near = get_close_matches(str(key), model.model_fields, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(model.model_fields)}"
            raise ValueError(f"unknown setting {key!r} in {model.__name__}: {known}")
