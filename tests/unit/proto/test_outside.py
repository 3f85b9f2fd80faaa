"""What the operator says of certificates, indexes and proxies reaches every tool, and no password reaches a run."""

import ssl

import pytest

from spell_proto import outside
from spell_proto.errors import SettingsError
from spell_proto.outside import Outside
from support.authority import loopback

SECRET = "s3cret"


def test_without_settings_no_tool_gets_anything():
    assert all(not variables for variables in outside.for_tools(outside.load({}), "").values())
    assert outside.apt_options("") == ()


def test_each_tool_gets_the_certificates_in_its_own_words():
    tools = outside.for_tools(Outside(), "/x/bundle.pem")

    assert tools["uv"] == tools["conda"] == {"SSL_CERT_FILE": "/x/bundle.pem"}
    assert tools["git"] == {"GIT_SSL_CAINFO": "/x/bundle.pem"}
    assert outside.apt_options("/x/bundle.pem") == ("-o", "Acquire::https::CaInfo=/x/bundle.pem")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"):
        assert tools["run"][name] == "/x/bundle.pem"


def test_proxies_are_told_in_both_spellings_and_this_machine_needs_none():
    given = outside.load(
        {"SPELL_HTTPS_PROXY": "http://proxy:3128", "SPELL_NO_PROXY": ".corp.example, 10.0.0.1"}
    )

    for tool in outside.for_tools(given, "").values():
        assert tool["https_proxy"] == tool["HTTPS_PROXY"] == "http://proxy:3128"
        assert tool["no_proxy"] == tool["NO_PROXY"] == ".corp.example,10.0.0.1,localhost,127.0.0.1,::1"
        assert "http_proxy" not in tool


def test_builds_use_the_passwords_of_indexes_and_proxies_and_runs_never_see_them():
    given = outside.load(
        {
            "SPELL_INDEX_URL": f"https://bot:{SECRET}@index.example/simple",
            "SPELL_EXTRA_INDEX_URLS": f"https://bot:{SECRET}@a.example/x,https://b.example/y",
            "SPELL_HTTP_PROXY": f"http://bot:{SECRET}@proxy:3128",
            "SPELL_HTTPS_PROXY": f"http://bot:{SECRET}@proxy:3128",
        }
    )
    tools = outside.for_tools(given, "")

    assert tools["uv"]["UV_DEFAULT_INDEX"] == f"https://bot:{SECRET}@index.example/simple"
    assert tools["uv"]["UV_EXTRA_INDEX_URL"].split() == [
        f"https://bot:{SECRET}@a.example/x",
        "https://b.example/y",
    ]
    assert SECRET in tools["git"]["https_proxy"]
    assert SECRET in tools["apt"]["http_proxy"]
    assert SECRET not in str(tools["run"])
    assert tools["run"]["PIP_INDEX_URL"] == "https://index.example/simple"
    assert tools["run"]["PIP_EXTRA_INDEX_URL"] == "https://a.example/x https://b.example/y"
    assert tools["run"]["https_proxy"] == "http://proxy:3128"
    assert SECRET not in repr(given)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("INDEX_URL", "pypi", "must be a URL such as https://host/simple, not 'pypi'"),
        ("INDEX_URL", "ftp://x/simple", "must be a URL such as https://host/simple, not 'ftp://x/simple'"),
        ("INDEX_URL", "https://", "must be a URL such as https://host/simple, not 'https://'"),
        ("INDEX_URL", "https://x:port/", "must be a URL such as https://host/simple, not 'https://x:port/'"),
        ("INDEX_URL", f"bot:{SECRET}@x", "must be a URL such as https://host/simple, not '…@x'"),
        ("EXTRA_INDEX_URLS", "https://a/x,b", "must be a URL such as https://host/simple, not 'b'"),
        ("HTTP_PROXY", "proxy:3128", "must be a URL such as http://host:3128, not 'proxy:3128'"),
        ("HTTPS_PROXY", f"ftp://u:{SECRET}@x", "must be a URL such as http://host:3128, not '…@x'"),
        (
            "INDEX_URL",
            f"https://bot:{SECRET} x@h/simple",
            "must be a URL such as https://host/simple, not '…@h/simple'",
        ),
        ("HTTP_PROXY", f"http://bot:{SECRET} x@h:1", "must be a URL such as http://host:3128, not '…@h:1'"),
        (
            "INDEX_URL",
            f"https://h/simple?token={SECRET}",
            "must be a URL such as https://host/simple, not 'https://h/simple'",
        ),
        (
            "INDEX_URL",
            f"https://h/simple#{SECRET}",
            "must be a URL such as https://host/simple, not 'https://h/simple'",
        ),
        (
            "INDEX_URL",
            f"https://bot:12/{SECRET}@h/simple",
            "must be a URL such as https://host/simple, not '…@h/simple'",
        ),
        (
            "EXTRA_INDEX_URLS",
            f"https://bot:{SECRET} x@h/simple",
            "must be a URL such as https://host/simple, not",
        ),
        ("NO_PROXY", "a\nb", "must name hosts, separated by commas, not 'a\\nb'"),
        ("CA_BUNDLE", "/nowhere.pem", "must name a file of certificates: '/nowhere.pem': No such file"),
        ("CA_BUNDLE", "/", "must name a file of certificates: '/': Is a directory"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told_in_one_sentence(name, value, said):
    with pytest.raises(SettingsError) as refused:
        outside.load({f"SPELL_{name}": value})

    assert str(refused.value).startswith(f"the setting SPELL_{name} {said}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\xff\xfe\0", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_a_ca_bundle_without_a_certificate_is_refused(tmp_path, content):
    (tmp_path / "ca.pem").write_bytes(content)

    with pytest.raises(SettingsError, match=r"in PEM form, and '.*ca\.pem' holds none"):
        outside.load({"SPELL_CA_BUNDLE": str(tmp_path / "ca.pem")})


def test_the_certificates_of_the_operator_are_trusted_besides_those_of_the_machine(tmp_path):
    for name in ("machine", "operator"):
        (tmp_path / name).mkdir()
    machines, _ = loopback(tmp_path / "machine")
    operators, _ = loopback(tmp_path / "operator")
    given = outside.load({"SPELL_CA_BUNDLE": str(operators)})

    path = outside.ca_file(given, tmp_path / "made", {"SSL_CERT_FILE": str(machines)})

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    assert context.cert_store_stats()["x509"] == 2
    assert [each.name for each in (tmp_path / "made").iterdir()] == ["bundle.pem"]


def test_without_a_ca_bundle_no_file_is_made(tmp_path):
    assert outside.ca_file(Outside(), tmp_path / "made", {}) == ""
    assert not (tmp_path / "made").exists()


def test_the_operators_index_takes_the_place_of_any_other_spelling_of_it():
    environ = {"UV_INDEX_URL": "https://old/simple", "UV_CACHE_DIR": "/c"}

    found = outside.merged(environ, {"UV_DEFAULT_INDEX": "https://new/simple"})

    assert found == {"UV_CACHE_DIR": "/c", "UV_DEFAULT_INDEX": "https://new/simple"}


def test_what_is_told_of_a_text_holds_no_password_and_keeps_what_looks_like_one():
    for url in (f"https://u:{SECRET}@h/x", f"https://u:{SECRET}@{SECRET}@h/x", f"http://u:a/{SECRET}@h/x"):
        assert SECRET not in outside.hidden(f"see {url} there")
        assert SECRET not in outside.bare(f"see {url} there")
    plain = "hello @ git+https://h:8443/team/hello@abc from https://h/x@y"
    assert outside.hidden(plain) == outside.bare(plain) == plain
