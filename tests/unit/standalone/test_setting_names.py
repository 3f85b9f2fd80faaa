"""A typo in a setting is noticed, and no real setting is called one."""

import dataclasses
import re

from spell_builder.settings import Settings as Builder
from spell_gateway.settings import Settings as Gateway
from spell_proto.outside import Outside
from spell_runner.settings import Settings as Runner
from spell_scheduler.settings import Settings as Scheduler
from spell_standalone.spelling import KNOWN, complaints
from spell_storage.settings import Settings as Storage


def test_every_setting_of_every_service_is_known():
    fields = {
        field.name
        for settings in (Builder, Gateway, Outside, Runner, Scheduler, Storage)
        for field in dataclasses.fields(settings)
        if re.fullmatch(r"[a-z_]+", field.name)
    }
    assert complaints(f"SPELL_{name.upper()}" for name in fields) == []


def test_a_typo_is_named_with_what_was_meant():
    assert complaints(["SPELL_ISOLATIO", "PATH", "SPELL_DIR"]) == [
        "SPELL_ISOLATIO is no setting: did you mean SPELL_ISOLATION?"
    ]
    assert complaints(KNOWN) == []
