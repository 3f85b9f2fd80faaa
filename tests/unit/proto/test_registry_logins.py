"""What a registry is told: it goes where it is meant to go, and nowhere else."""

import base64
import json
from urllib.parse import quote

import pytest

from spell_proto.registries import RegistryLogin

LOGIN = RegistryLogin(username="ada", password="hunter2>?hunter2")


def test_a_login_does_not_show_its_password():
    assert "hunter2" not in f"{LOGIN} {LOGIN!r} {[LOGIN]}"
    assert LOGIN.auth() == {"username": "ada", "password": "hunter2>?hunter2"}


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_sentence_is_told_without_the_password_however_it_is_written(encode):
    both = encode(b"ada:hunter2>?hunter2").decode()

    told = LOGIN.redact(f"denied: hunter2>?hunter2, Basic {both}, for ada")

    assert told == "denied: …, Basic …, for ada"


def test_a_key_with_quotes_is_masked_as_it_stands_in_json_and_in_urls():
    key = RegistryLogin(username="_json_key", password='{"private_key":"a\\nb"}')

    assert (
        key.redact(f"said {json.dumps(key.password)} and {quote(key.password, safe='')}") == 'said "…" and …'
    )


def test_a_password_of_two_letters_takes_nothing_with_it():
    assert RegistryLogin(username="ada", password="no").redact("no such host") == "no such host"
