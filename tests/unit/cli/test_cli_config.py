"""The configuration file, its variables, and the addresses they name."""

import pytest

from spell_cli import config
from spell_cli.errors import ConfigError
from spell_cli.local_stack import LocalServer
from spell_cli.servers import parse_url


@pytest.fixture
def write(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "config"
        path.write_text(text)
        path.chmod(mode)
        return {"SPELL_DIR": str(tmp_path)}

    return write


def test_without_anything_the_local_stack_is_meant(tmp_path):
    settings = config.load({"SPELL_DIR": str(tmp_path)})

    assert settings.server is None
    assert settings.include_uncommitted
    assert isinstance(settings.connect(start=False), LocalServer)


def test_a_file_names_the_server_and_the_token(write):
    settings = config.load(
        write("server: https://spell.example.org\ntoken: abc\ninclude_uncommitted: false\n")
    )
    address = settings.connect().address()

    assert (address.host, address.port, address.tls, address.token) == ("spell.example.org", 443, True, "abc")
    assert not settings.include_uncommitted


def test_variables_win_over_the_file(write):
    environ = write("server: https://one.example.org\ntoken: abc\n")
    settings = config.load(environ | {"SPELL_API_URL": "https://two.example.org/base/", "SPELL_TOKEN": "xyz"})
    address = settings.connect().address()

    assert (address.host, address.prefix, address.token) == ("two.example.org", "/base", "xyz")


def test_the_token_of_the_originals_file_is_not_shown_to_the_local_stack(write):
    settings = config.load(write("type: global\nuser_name: alice\nemail: a@b\ntoken: abc\nowner: alice\n"))

    assert settings.token is None
    assert settings.warnings == ()


def test_a_token_that_others_can_read_is_refused(write):
    with pytest.raises(ConfigError, match="chmod 600"):
        config.load(write("token: abc\n", mode=0o644))


@pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "é", "\x1b", "x" * 5000, " "])
def test_a_token_that_no_header_can_carry_is_refused_and_not_told(tmp_path, token):
    with pytest.raises(ConfigError) as caught:
        config.load({"SPELL_DIR": str(tmp_path), "SPELL_TOKEN": token})

    assert caught.value.message.startswith("SPELL_TOKEN is no token: ")
    assert token not in caught.value.message.removeprefix("SPELL_TOKEN is no token: ") or token == " "


def test_a_file_without_a_token_may_be_readable(write):
    assert config.load(write("include_uncommitted: false\n", mode=0o644)).server is None


def test_a_setting_that_does_not_exist_is_warned_of(write):
    settings = config.load(write("include_uncomitted: false\n"))

    assert "'include_uncomitted' is not a setting" in settings.warnings[0]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("server: [\n", "config:2"),
        ("a: b: c\n", "config:1"),
        ("\tserver: x\n", "config:1"),
        ("- a\n- b\n", "server"),
        ("include_uncommitted: 7\n", "'include_uncommitted' should be true or false"),
        ("server: 7\n", "'server' should be text"),
        ("!!python/object/apply:os.system ['true']\n", "config:1"),
        ("server: \x00\n", "config"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(write, text, holds):
    with pytest.raises(ConfigError) as caught:
        config.load(write(text))

    assert holds in caught.value.message


def test_an_empty_file_is_fine(write):
    assert config.load(write("# nothing yet\n")).server is None


def test_a_server_without_a_token_is_refused(tmp_path):
    settings = config.load({"SPELL_DIR": str(tmp_path), "SPELL_API_URL": "https://x.example.org"})

    with pytest.raises(ConfigError, match="SPELL_TOKEN"):
        settings.connect()


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "ftp://x", "https://", "https://x:port/", "https://u:p@x/", "http://spell.example.org"),
        *(
            "https://a..b",
            "https://.x",
            "https://a b",
            "https://" + "x" * 64,
            "https://x:99999",
            "https://[::1",
        ),
        *("https://" + "ü" * 64, "https://\u2024x", "https://x:0x10", "file:///etc/passwd", "https://a\x7fb"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        parse_url(url, "t", where="SPELL_API_URL", insecure=False)

    assert "SPELL_API_URL" in caught.value.message
    assert "u:p" not in caught.value.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000/"])
def test_this_machine_needs_no_encryption(url):
    assert parse_url(url, "t", where="x", insecure=False).port == 8000


def test_an_unencrypted_server_needs_a_word():
    assert parse_url("http://gateway:80", "t", where="x", insecure=True).host == "gateway"


def test_yaml_is_not_read_where_there_is_no_file(tmp_path):
    assert config._read(tmp_path / "config") == {}
    assert list(tmp_path.iterdir()) == []
