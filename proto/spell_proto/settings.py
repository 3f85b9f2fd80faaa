"""Environment variables → one frozen dataclass per service. Nobody else reads the environment."""

import dataclasses
import os
import typing
from collections.abc import Mapping
from typing import TypeVar

from spell_proto.errors import SettingsError, shown

T = TypeVar("T")

PREFIX = "SPELL_"


def load(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Fill the dataclass `cls` from `SPELL_<FIELD>` variables.

    Fields may be `str`, `int`, `float` or `bool` (`1`, `true`, `yes` / `0`, `false`, `no`).

    Raises:
        SettingsError: a field without default is missing, or a value cannot be read; the variable is named,
            its value is not (it may be a secret).
    """
    environ = os.environ if environ is None else environ
    hints = typing.get_type_hints(cls)
    values: dict[str, object] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass by contract
        name = PREFIX + field.name.upper()
        given = environ.get(name)
        if given is None:
            if field.default is dataclasses.MISSING:
                raise SettingsError(f"the setting {name} is missing")
            continue
        values[field.name] = _parse(name, given, hints[field.name])
    return cls(**values)


def _parse(name: str, given: str, wanted: type) -> object:
    if wanted is bool:
        if given.lower() in {"1", "true", "yes", "on"}:
            return True
        if given.lower() in {"0", "false", "no", "off", ""}:
            return False
        raise SettingsError(f"the setting {name} must be true or false")
    if wanted in {int, float}:
        try:
            number: float = wanted(given)
        except ValueError:
            raise SettingsError(f"the setting {name} must be a number, not {shown(given, 20)}") from None
        if number < 0:
            raise SettingsError(f"the setting {name} must not be negative")
        return number
    return given
