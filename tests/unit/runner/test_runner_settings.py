"""A number with which a runner cannot work is refused at its start, by name."""

import pytest

from spell_proto.errors import SettingsError
from spell_proto.settings import load
from spell_runner.settings import Settings

NEEDED = {
    f"SPELL_{name}": "x" for name in ("DATA_DIR", "NATS_URL", "SCHEDULER_URL", "STORAGE_URL", "BUILDER_URL")
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPELL_HEARTBEAT_SECONDS", "0"),
        ("SPELL_HEARTBEAT_SECONDS", "3600"),
        ("SPELL_SHIMD_LINGER_SECONDS", "0"),
        ("SPELL_SHIMD_LINGER_SECONDS", "9999999999"),
        ("SPELL_GRACE_SECONDS", "9999999999"),
        ("SPELL_SLOTS", "99999999999"),
        ("SPELL_LOG_BYTES_MAX", "9" * 18),
    ],
)
def test_a_number_with_which_a_runner_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"the setting {name} must be a number from"):
        load(Settings, NEEDED | {name: value})


def test_no_grace_and_slots_that_are_found_out_are_settings_that_work():
    chosen = load(Settings, NEEDED | {"SPELL_GRACE_SECONDS": "0", "SPELL_SLOTS": "0"})

    assert (chosen.grace_seconds, chosen.slots) == (0.0, 0)
