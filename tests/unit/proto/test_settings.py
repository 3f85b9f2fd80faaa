"""Settings from the environment: read strictly, and a bad one is one sentence with its name, what was found, what is allowed."""

from dataclasses import dataclass

import pytest

from spell_proto.errors import SettingsError
from spell_proto.logs import checked_level
from spell_proto.settings import load, within


@dataclass(frozen=True)
class Settings:
    where: str
    count: int = 3
    seconds: float = 1.5
    spot: bool = False
    port: int = within(0, 0, 65_535)


def test_a_setting_that_is_not_given_has_its_default():
    assert load(Settings, {"SPELL_WHERE": "x", "OTHER": "y"}) == Settings("x")


def test_values_are_read_as_their_types():
    given = {"SPELL_WHERE": " x ", "SPELL_COUNT": "7", "SPELL_SECONDS": "0.25", "SPELL_SPOT": "Yes"}

    assert load(Settings, given | {"SPELL_PORT": "80"}) == Settings(" x ", 7, 0.25, spot=True, port=80)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(
            ("SPELL_COUNT", value, "a whole number from 0")
            for value in ("", "many", "-1", "1.5", "1_000", "１２", "0x10", "1e3", "NaN", "9" * 400)
        ),
        *(
            ("SPELL_SECONDS", value, "a number from 0")
            for value in ("", "soon", "-0.1", "nan", "inf", "-inf", "1e9", "1_0.0", "١", ".5")
        ),
        ("SPELL_SPOT", "maybe", "true or false"),
        ("SPELL_SPOT", "2", "true or false"),
        ("SPELL_PORT", "65536", "from 0 to 65535"),
        ("SPELL_WHERE", "a\0b", "NUL"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_one_sentence(name, value, allowed):
    with pytest.raises(SettingsError) as refused:
        load(Settings, {"SPELL_WHERE": "x", name: value})

    said = str(refused.value)
    assert said.startswith(f"the setting {name} must ")
    assert allowed in said
    assert len(said) < 160
    assert said.isprintable()


def test_a_setting_without_a_default_is_missed_by_name():
    with pytest.raises(SettingsError, match="the setting SPELL_WHERE is missing"):
        load(Settings, {})


def test_a_level_of_the_log_is_one_that_exists():
    assert checked_level("Warning") == "warning"
    with pytest.raises(
        SettingsError, match=r"SPELL_LOG_LEVEL must be one of debug, info, .*, not 'BASIC_FORMAT'"
    ):
        checked_level("BASIC_FORMAT")
