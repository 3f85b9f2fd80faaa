"""uv sees where the index is and how to reach it, and nothing else of the service's environment."""

from pathlib import Path

from spell_builder.uv import base_interpreter, scrubbed

DATA = Path("/data")


def test_secrets_of_the_service_and_settings_of_others_do_not_pass():
    given = {
        "SPELL_DATABASE_URL": "postgresql://builder:secret@/spell",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/root",
        "PYTHONPATH": "/tmp",
        "UV_PYTHON": "3.9",
        "PATH": "/usr/bin",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "https_proxy": "http://proxy:3128",
        "UV_EXTRA_INDEX_URL": "https://index.example.org/simple",
    }

    seen = scrubbed(given, DATA)

    assert "secret" not in "".join(seen.values())
    assert "PYTHONPATH" not in seen
    assert "UV_PYTHON" not in seen
    assert seen["HOME"] == "/data/home"
    assert seen["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert seen["https_proxy"] == "http://proxy:3128"
    assert seen["UV_EXTRA_INDEX_URL"] == "https://index.example.org/simple"


def test_the_index_that_pip_uses_is_used_unless_uv_has_its_own():
    pip = {"PIP_INDEX_URL": "https://pip.example.org/simple"}

    assert scrubbed(pip, DATA)["UV_DEFAULT_INDEX"] == "https://pip.example.org/simple"
    both = pip | {"UV_DEFAULT_INDEX": "https://uv.example.org/simple"}
    assert scrubbed(both, DATA)["UV_DEFAULT_INDEX"] == "https://uv.example.org/simple"


def test_environments_are_made_from_a_real_interpreter():
    path = Path(base_interpreter().path)

    assert path.is_file()
    assert not path.is_symlink()
    assert not (path.parent.parent / "pyvenv.cfg").exists()
