"""`spell cluster …-bucket` as it is typed, against the real API and real buckets: what is stored, said, and never shown."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spell_cli.bucket_client import BucketClient
from spell_cli.servers import Address, RemoteServer
from support import buckets

pytestmark = pytest.mark.integration
SPELL = Path(sys.executable).with_name("spell")
SECRET = "hunter2-hunter2"
URL = "s3://cli-private"


@pytest.fixture(scope="module")
def clouds(stage, tmp_path_factory):
    with buckets.clouds(tmp_path_factory.mktemp("clouds"), stage.clouds_port) as made:
        yield made


@pytest.fixture
def spell(stage, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("SPELL_")}
    env |= {
        "SPELL_DIR": str(tmp_path / "spell"),
        "SPELL_API_URL": stage.url,
        "SPELL_TOKEN": stage.tokens["ada"],
        "TZ": "UTC",
    }

    def call(*words, stdin=b"", user="ada"):
        done = subprocess.run(
            [SPELL, *words],
            cwd=tmp_path,
            env=env | {"SPELL_TOKEN": stage.tokens[user]},
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"hunter2" not in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stdout.decode(), " ".join(done.stderr.decode().split())

    return call


def test_a_bucket_is_added_listed_and_removed(spell, clouds):
    clouds.bucket("cli-private", {"a": b"x"}, public=False)
    assert spell("cluster", "list-buckets") == (0, "There are no buckets added.\n", "")

    words = ("cluster", "add-bucket", f"{URL}/", "--access-key-id", "AKIAREADER", "--secret-stdin")
    added = spell(*words, stdin=f"{SECRET}\n".encode())

    assert added == (0, f"Successfully added {URL}, read with the key of AKIAREADER.\n", "")
    header, row = spell("cluster", "list-buckets")[1].splitlines()
    assert header.split() == ["BUCKET", "READ", "AS", "ADDED"]
    assert row.split()[:2] == [URL, "AKIAREADER"]
    assert json.loads(spell("cluster", "list-buckets", "--json")[1])[0]["kind"] == "aws_key"
    told = json.loads(spell(*words, "--json", stdin=f"{SECRET}\n".encode())[1])
    assert (told["url"], told["kind"], told["username"]) == (URL, "aws_key", "AKIAREADER")
    assert SECRET not in json.dumps(told)
    assert spell("cluster", "remove-bucket", URL) == (0, f"Access to {URL} has been removed.\n", "")
    spell(*words, stdin=f"{SECRET}\n".encode())
    assert json.loads(spell("cluster", "remove-bucket", "--json", URL)[1]) == {"removed": [URL]}
    code, _, complaint = spell("cluster", "remove-bucket", URL)
    assert (code, complaint) == (1, f"ERROR: no credentials are stored for '{URL}'")


def test_buckets_of_google_take_the_key_of_a_service_account(spell, clouds):
    clouds.bucket("gsprivate", {"a": b"x"})
    key = json.dumps(buckets.service_account(), indent=2).encode()

    code, said, complaint = spell("cluster", "add-bucket", "gs://gsprivate", "--secret-stdin", stdin=key)

    assert (code, complaint) == (0, "")
    assert said == "Successfully added gs://gsprivate, read with the key of reader@project.example.org.\n"
    assert spell("cluster", "remove-bucket", "gs://gsprivate")[0] == 0


def test_what_the_bucket_says_of_credentials_is_told(spell, clouds):
    clouds.bucket("cli-private", {"a": b"x"}, public=False)
    words = ("--access-key-id", "AKIAREADER", "--secret-stdin")
    clouds.amazon.guard()
    try:
        code, _, complaint = spell("cluster", "add-bucket", URL, *words, stdin=SECRET.encode())
    finally:
        clouds.amazon.unguard()

    assert code == 2
    assert f"{URL} does not let these credentials list and read it; nothing was stored" in complaint
    code, _, complaint = spell("cluster", "add-bucket", "s3://nowhere", *words, stdin=SECRET.encode())
    assert (code, complaint) == (1, "ERROR: 's3://nowhere': there is no such bucket")
    code, _, complaint = spell("cluster", "add-bucket", URL, *words, stdin=SECRET.encode(), user="bob")
    assert (code, "administrator" in complaint) == (1, True)


KEY = ("--access-key-id", "AKIAREADER")
REFUSED = [
    (("team-data",), b"", "is no bucket, as s3://team-data"),
    (("runs/1",), b"", "is no bucket, as s3://team-data"),
    (("s3://",), b"", "after '://' comes the name of a bucket"),
    (("s3://UPPER_",), b"", "after '://' comes the name of a bucket"),
    (("s3://team-data/key",), b"", "is no bucket, as s3://team-data"),
    (("https://team-data",), b"", "s3://BUCKET[/KEY] and gs://BUCKET[/KEY] are allowed"),
    (("s3://team-data",), b"", "this cluster has no IAM role, which an operator names in SPELL_AWS_ROLE"),
    (("s3://team-data", "--secret-stdin"), b"hunter2", "--access-key-id"),
    (("s3://team-data", *KEY), b"", "use --secret-stdin"),
    (("s3://team-data", *KEY, "--secret", SECRET), b"", "No such option"),
    *(
        (("s3://team-data", *KEY, "--secret-stdin"), text, "printable ASCII characters are allowed")
        for text in (b"", b"\n", b"\xff\n", b"hunter2\0\n", b"hunter2" * 1000)
    ),
    (("gs://team-data", *KEY), b"", "--access-key-id is for s3"),
    (("gs://team-data",), b"", "--secret-stdin < key.json"),
    *(
        (("gs://team-data", "--secret-stdin"), text, "is not the JSON key of a service account")
        for text in (b"", b"hunter2", b"[]", b"{}", b"\xff\xfe", b'{"client_email": "hunter2"}')
    ),
]


@pytest.mark.parametrize(("words", "stdin", "holds"), REFUSED)
def test_what_makes_no_sense_is_refused_in_a_sentence(spell, words, stdin, holds):
    code, _, complaint = spell("cluster", "add-bucket", *words, stdin=stdin)

    assert (code, holds in complaint) == (2, True), complaint


@pytest.fixture
def rain(clouds):
    files = {
        "annual/2024.csv": b"0123456789" * 500,
        "annual/2025.csv": b"sun",
        "annual/deep/x": b"x",
        "readme": b"read me",
    }
    clouds.bucket("rain", files)
    return files


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_is_listed_as_files_are(spell, rain, scheme):
    code, said, complaint = spell("ls", f"{scheme}://rain", user="bob")
    assert (code, complaint) == (0, "")
    assert [line.split()[0::4] for line in said.splitlines()] == [["-"], ["7", "readme"]]
    assert said.splitlines()[0].endswith(" annual/")

    _, said, _ = spell("ls", "-h", f"{scheme}://rain/annual/")
    assert [line.split()[0] for line in said.splitlines()] == ["4.9K", "3", "-"]
    assert [line.split()[-1] for line in said.splitlines()] == ["2024.csv", "2025.csv", "deep/"]
    _, said, _ = spell("ls", "--json", f"{scheme}://rain/annual/2025.csv")
    assert [(one["path"], one["size"]) for one in json.loads(said)] == [("2025.csv", 3)]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("s3://rain", ["annual/2024.csv", "annual/2025.csv", "annual/deep/x", "readme"]),
        ("gs://rain/annual/", ["2024.csv", "2025.csv", "deep/x"]),
        ("s3://rain/annual/2024.csv", ["2024.csv"]),
    ],
)
def test_a_bucket_a_directory_or_an_object_is_copied(spell, rain, tmp_path, source, wanted):
    code, said, complaint = spell("cp", source, "out", user="bob")

    assert (code, complaint) == (0, "")
    assert f"Copied {len(wanted)} files." in said
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert sorted(found) == wanted
    assert found[wanted[0]] == rain["annual/2024.csv"]


def started(stage, tmp_path, *words, **streams):
    environment = os.environ | {
        "SPELL_DIR": str(tmp_path / "spell"),
        "SPELL_API_URL": stage.url,
        "SPELL_TOKEN": stage.tokens["ada"],
        "TERM": "xterm",
        "PYTHONUTF8": "1",
    }
    return subprocess.Popen([SPELL, *words], cwd=tmp_path, env=environment, **streams)


def test_a_copy_of_a_bucket_that_is_cut_off_goes_on_object_by_object(stage, spell, clouds, tmp_path):
    files = {f"o{number:02}": os.urandom(2 << 20) for number in range(40)}
    clouds.bucket("cut-off", files)
    target = tmp_path / "out"
    process = started(stage, tmp_path, "cp", "s3://cut-off", "out", stderr=subprocess.PIPE)

    deadline = time.monotonic() + 60
    while len(list(target.glob("o*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1].decode()
    there = {path.name: path.stat().st_ino for path in target.glob("o*")}
    code, text, complaint = spell("cp", "s3://cut-off", "out")

    assert process.returncode == 130
    assert "Copy aborted. To go on, run the same command again." in said
    assert 3 <= len(there) < len(files)
    assert (code, complaint) == (0, "")
    assert f"Copied {len(files) - len(there)} files. Skipped {len(there)} files." in text
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files
    assert there == {name: (target / name).stat().st_ino for name in there}, "none was fetched again"


def test_an_object_that_is_another_one_by_now_is_not_taken_for_the_copy(spell, clouds, tmp_path):
    clouds.bucket("changing", {"a": b"one"})
    assert spell("cp", "s3://changing", "out")[0] == 0
    os.utime(tmp_path / "out/a", (1, 1))

    code, _, complaint = spell("cp", "s3://changing", "out")

    assert (code, "File 'a' already exists" in complaint) == (1, True)


def test_how_much_of_a_list_is_here_is_told_while_it_comes(stage, clouds):
    clouds.bucket("many", {f"d/o{number:03}": b"" for number in range(50)})
    host, _, port = stage.url.removeprefix("http://").partition(":")
    client = BucketClient(RemoteServer(Address(host, int(port), False, "", stage.tokens["ada"]), None))
    counts: list[int] = []

    found = client.objects("s3://many", recursive=True, on_count=counts.append)

    assert len(found) == 50
    assert counts == list(range(1, 51))


def test_a_link_leads_into_a_bucket(spell, rain, tmp_path):
    assert spell("link", "weather", "s3://rain/annual")[0] == 0

    _, listed, _ = spell("ls", "weather/deep")
    code, said, _ = spell("cp", "weather/2025.csv", "out")

    assert listed.splitlines()[0].endswith(" x")
    assert listed.splitlines()[-1] == "weather/deep → s3://rain/annual/deep"
    assert (code, "Copied 1 files." in said) == (0, True)
    assert (tmp_path / "out/2025.csv").read_bytes() == b"sun"
    assert spell("unlink", "weather")[0] == 0


def test_names_that_lead_elsewhere_or_clash_stay_in_the_bucket(spell, clouds, tmp_path):
    clouds.bucket("odd", {"d": b"file", "d/x": b"below", "back\\slash": b"b", "é ü": b"u"})

    code, said, complaint = spell("cp", "s3://odd", "out")

    assert (code, "Copied 3 files." in said) == (0, True)
    assert "File 'd' ignored: there is a directory of that name." in complaint
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "back\\slash",
        "x",
        "é ü",
    ]


@pytest.mark.parametrize(
    ("words", "code", "holds"),
    [
        (["ls", "s3://nowhere"], 1, "'s3://nowhere': there is no such bucket"),
        (["ls", "s3://rain/nothing"], 1, "'s3://rain/nothing': no such object, nor any below it"),
        (["cp", "s3://rain/nothing", "out"], 1, "'s3://rain/nothing': no such object, nor any below it"),
        (["ls", "s3://"], 2, "after '://' comes the name of a bucket"),
        (["ls", "s3://UPPER_/"], 2, "after '://' comes the name of a bucket"),
        (["cp", "s3://rain/a/../b", "out"], 2, "its key is no path"),
        (["cp", "ftp://rain", "out"], 2, "s3://BUCKET[/KEY] and gs://BUCKET[/KEY] are allowed"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(spell, rain, tmp_path, words, code, holds):
    got, _, complaint = spell(*words)

    assert (got, holds in complaint) == (code, True), complaint
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_read_is_named_with_what_to_do(spell, clouds, tmp_path):
    clouds.bucket("locked", {"a": b"x"}, public=False)

    code, _, complaint = spell("cp", "s3://locked/a", "out")

    assert code == 1
    assert "'s3://locked/a' may not be read" in complaint
    assert "spell cluster add-bucket s3://locked" in complaint
