"""What counts as a notice that a spot machine is taken away, and what is refused as a place to look for one."""

import pytest

from spell_proto.errors import SettingsError
from spell_runner.notices import Source, source, stands


@pytest.mark.parametrize(
    ("notice", "endpoint", "found"),
    [
        ("", "", None),
        ("aws", "", Source("aws", "http://169.254.169.254")),
        ("aws", "http://[fd00:ec2::254]/", Source("aws", "http://[fd00:ec2::254]")),
        ("gcp", "", Source("gcp", "http://169.254.169.254")),
        ("/run/reclaimed", "", Source("file", "/run/reclaimed")),
        ("https://example.org:8443/a?b=c", "", Source("url", "https://example.org:8443/a?b=c")),
    ],
)
def test_a_source_is_a_cloud_a_url_or_a_file(notice, endpoint, found):
    assert source(notice, endpoint, spot=True) == found


@pytest.mark.parametrize(
    ("notice", "endpoint", "spot", "said"),
    [
        ("aws", "", False, "SPELL_SPOT_NOTICE is for spot machines: it needs SPELL_SPOT=1"),
        ("azure", "", True, "SPELL_SPOT_NOTICE must be aws, gcp, an http or https URL"),
        ("run/reclaimed", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("ftp://example.org/x", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("http://", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("http://host:x/", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("http://host/a b", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("http://[::1/", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("http://me:secret@host/", "", True, "SPELL_SPOT_NOTICE must be aws"),
        ("/run/x", "http://host", True, "SPELL_SPOT_ENDPOINT goes with SPELL_SPOT_NOTICE=aws or gcp"),
        ("", "http://host", True, "SPELL_SPOT_ENDPOINT goes with"),
        ("aws", "169.254.169.254", True, "SPELL_SPOT_ENDPOINT must be the address of a metadata service"),
        ("aws", "http://host/latest", True, "SPELL_SPOT_ENDPOINT must be the address"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence_that_tells_no_password(notice, endpoint, spot, said):
    with pytest.raises(SettingsError) as refused:
        source(notice, endpoint, spot=spot)

    assert str(refused.value).startswith(f"the setting {said}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "status", "body", "stood"),
    [
        ("aws", 200, b'{"action": "terminate", "time": "2026-09-18T08:22:00Z"}', True),
        ("aws", 200, b'{"action":"hibernate"}', True),
        ("aws", 404, b"<html>", False),
        ("gcp", 200, b"TRUE", True),
        ("gcp", 200, b"FALSE\n", False),
        ("url", 200, b"", True),
        ("url", 404, b"", False),
    ],
)
def test_an_answer_is_a_notice_or_none(kind, status, body, stood):
    assert stands(kind, status, body) is stood


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("aws", 200, b"<html>a portal of some hotel</html>"),
        ("aws", 200, b"[]"),
        ("aws", 401, b""),
        ("aws", 503, b""),
        ("gcp", 404, b""),
        ("gcp", 200, b"<html>"),
        ("url", 302, b""),
        ("url", 500, b""),
    ],
)
def test_an_answer_that_says_nothing_about_it_is_none(kind, status, body):
    with pytest.raises(ValueError, match=r"."):
        stands(kind, status, body)
