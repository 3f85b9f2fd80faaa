"""Public SSH keys are told from everything else, and have the fingerprint that ssh-keygen shows."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_gateway import ssh_keys
from spell_proto.errors import InvalidError


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(tmp_path, kind):
    made = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "ada@laptop", "-f", made], check=True)
    public = made.with_suffix(".pub")
    shown = subprocess.run(["ssh-keygen", "-lf", public], check=True, capture_output=True, text=True).stdout

    key = ssh_keys.parse(public.read_text())

    assert key.fingerprint == shown.split()[1]
    assert key.comment == "ada@laptop"
    assert public.read_text().startswith(key.line)


def test_a_private_key_is_refused_with_a_warning(tmp_path):
    made = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made], check=True)

    with pytest.raises(InvalidError, match="keep it secret") as refused:
        ssh_keys.parse(made.read_text())

    assert made.read_text().splitlines()[1] not in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "ssh-ed25519",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAP",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIHgRJ0dgYFVVRGRYcWY3b2xkS2V5Rm9yVGVzdHM0",
        'command="sh" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHgRJ0dgYFVVRGRYcWY3b2xkS2V5Rm9yVGVzdHM0',
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\nssh-ed25519 AAAA",
    ],
)
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(InvalidError) as refused:
        ssh_keys.parse(text)

    assert refused.value.code == "public_key_invalid"
    assert refused.value.field == "public_key"


@given(st.text())
def test_no_text_is_too_strange_to_be_judged(text):
    with pytest.raises(InvalidError):
        ssh_keys.parse(text)
