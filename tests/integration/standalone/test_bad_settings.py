"""A stack with a setting that makes no sense does not start, and a person is told why in one sentence."""

import time

import pytest

from support.standalone import prepared

pytestmark = pytest.mark.integration

SETTINGS = [
    # (setting, value, what does not start, what is said of it)
    ("isolation", "bogus", "runner", "ISOLATION must be one of auto, bubblewrap, unshare, none, not 'bogus'"),
    ("slots", "１２", "runner", "SLOTS must be a whole number from 0, not '\\uff11\\uff12'"),
    ("log_level", "loud", "", "LOG_LEVEL must be one of debug, info, warning, error, critical, not 'loud'"),
    ("builds_max", "0", "builder", "BUILDS_MAX must be a number from 1 to 1000, not '0'"),
    ("lost_after_seconds", "nan", "scheduler", "LOST_AFTER_SECONDS must be a number from 0, not 'nan'"),
    ("machine_types", "CPU,a b", "scheduler", "MACHINE_TYPES: machine type: 'a b' is not a name"),
    ("machine_type", "../x", "runner", "MACHINE_TYPE: machine type: '../x' is not a name"),
    (
        "index_hosts",
        "https://x.example/",
        "builder",
        "INDEX_HOSTS must name hosts, separated by commas, not 'https",
    ),
    ("https_proxy", "proxy:3128", "", "HTTPS_PROXY must be a URL such as http://host:3128, not 'proxy:3128'"),
    (
        "ca_bundle",
        "/nowhere.pem",
        "",
        "CA_BUNDLE must name a file of certificates: '/nowhere.pem': No such file",
    ),
    ("blob_store", "nosuch://x", "storage", "BLOB_STORE must be a URL like s3://bucket/prefix"),
]


@pytest.mark.parametrize(("name", "value", "service", "said"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_a_setting_that_makes_no_sense_is_told_in_one_sentence(name, value, service, said):
    with prepared(**{name: value}) as stack:
        begun = time.monotonic()

        result = stack.spell("up")

        assert result.rc == 69, result
        (sentence,) = [line for line in result.stderr.splitlines() if "does not start" in line]
        assert f"{service} does not start: the setting SPELL_{said}" in sentence
        assert sentence == result.stderr.splitlines()[-1]
        assert not [sign for sign in ("{", "Traceback", "last lines of") if sign in result.stderr], result
        assert time.monotonic() - begun < 30
        assert stack.status() is None
