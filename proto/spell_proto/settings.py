"""Environment variables → one frozen dataclass per service. Nobody else reads the environment."""

import dataclasses
import os
import re
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from spell_proto.errors import SettingsError, shown

T = TypeVar("T")

PREFIX = "SPELL_"
#: Python alone would also take `NaN`, `1_000` and digits of other scripts.
_NUMBER = {
    int: re.compile(r"[0-9]{1,18}", re.ASCII),
    float: re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII),
}


def load(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Fill the dataclass `cls` from `SPELL_<FIELD>` variables.

    Fields may be `str`, `int`, `float` or `bool` (`1`, `true`, `yes` / `0`, `false`, `no`).

    Raises:
        SettingsError: a field without default is missing, or a value cannot be read; the variable is named with
            what was found and what is allowed.
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
        value = values[field.name] = _parse(name, given, hints[field.name])
        least, most = field.metadata.get("range", (value, value))
        if not least <= value <= most:
            raise SettingsError(
                f"the setting {name} must be a number from {least} to {most}, not {shown(given, 20)}"
            )
    return cls(**values)


def within(default: T, least: T, most: T) -> T:
    """A number that has a range, as the default of a field."""
    found: T = dataclasses.field(default=default, metadata={"range": (least, most)})
    return found


def _parse(name: str, given: str, wanted: type) -> Any:
    if wanted is bool:
        if given.lower() in {"1", "true", "yes", "on"}:
            return True
        if given.lower() in {"0", "false", "no", "off", ""}:
            return False
        raise SettingsError(f"the setting {name} must be true or false, not {shown(given, 20)}")
    if wanted in {int, float}:
        kind = "a whole number" if wanted is int else "a number"
        if not _NUMBER[wanted].fullmatch(given.strip()):
            raise SettingsError(f"the setting {name} must be {kind} from 0, not {shown(given, 20)}")
        return wanted(given)
    if "\0" in given:
        raise SettingsError(f"the setting {name} must not hold a NUL byte")
    return given
