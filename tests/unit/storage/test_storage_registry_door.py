"""What a registry asks for, and which addresses are asked at all."""

import pytest
from yarl import URL

from spell_proto.errors import InvalidError
from spell_storage.registry_door import Challenge, Door, challenge, is_loopback, is_public, proxy_for
from spell_storage.sealed import Login


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (['Basic realm="Registry"'], Challenge()),
        (["basic"], Challenge()),
        (
            ['Bearer realm="https://auth.example.org/token",service="registry",scope="a:b:c"'],
            Challenge("https://auth.example.org/token", "registry"),
        ),
        (['bearer realm="https://auth.example.org/token"'], Challenge("https://auth.example.org/token")),
        (["Negotiate", 'Basic realm="x"'], Challenge()),
        (["Negotiate"], None),
        (['Bearer service="x"'], None),
        (["Bearer"], None),
        (["Basically"], None),
        (['Bearer realm="' + "x" * 10_000 + '"'], None),
        ([""], None),
        ([], None),
    ],
)
def test_a_challenge_is_read_as_far_as_it_is_understood(headers, wanted):
    assert challenge(headers) == wanted


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_an_address_that_everybody_reaches_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_of_a_network_of_somebodys_own_is_not(address):
    assert not is_public(address)


def test_plain_http_is_for_this_machine_alone():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("10.0.0.1", "registry.example.org", "127.0.0.1.example.org")))


def test_a_proxy_is_used_where_the_operator_wants_one(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.internal.example.org")

    assert str(proxy_for(URL("https://registry.example.org/v2/"))) == "http://proxy.example.org:3128"
    assert proxy_for(URL("http://registry.example.org/v2/")) is None
    assert proxy_for(URL("https://127.0.0.1:5000/v2/")) is None
    assert proxy_for(URL("https://r.internal.example.org/v2/")) is None


@pytest.mark.parametrize("host", ["registry.example.org:99999", "[::1]x:5000"])
async def test_what_is_no_address_is_told_so(host):
    with pytest.raises(InvalidError, match="this is no address"):
        await Door("*").knock(host, Login("ada", "hunter2"))
