"""The command line against the real API: what the server refuses is told in its words, and git never hears of it."""

import asyncio
import json
import os
import time

import pytest

from spell_cli import main
from support.spawned import announced

pytestmark = pytest.mark.integration
MARKER = "zqmarker"


@pytest.fixture
def spell(stage, tmp_path, monkeypatch, capfd):
    """Run a command line in this process: its exit code, what it said, and the programs it started."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SPELL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPELL_DIR", str(tmp_path / "spell"))
    monkeypatch.setenv("SPELL_API_URL", stage.url)
    monkeypatch.setenv("SPELL_TOKEN", stage.tokens["ada"])

    def call(*words):
        with announced() as started:
            code = main._guarded(list(words))
        said = capfd.readouterr()
        return code, said.out, said.err, started

    return call


def run(*options):
    return ["run", "-f", "-b", *options, f"true {MARKER}"]


# Row of the catalogue, words, exit code, what the complaint must hold.
REFUSED = [
    ("B05", run("-t", f"T5000-{MARKER}"), 2, ["--machine-type: invalid choice: 'T5000-zqmarker'", "(choose from CPU"]),
    ("B05", run("-t", ""), 2, ["--machine-type: invalid choice: ''", "choose from CPU"]),
    ("B05", run("-t", "cpu "), 2, ["--machine-type: invalid choice: 'cpu '", "Did you mean CPU?"]),
    ("B05", run("-t", "CUP"), 2, ["--machine-type: invalid choice: 'CUP'", "Did you mean CPU?"]),
    ("B10", run("--pip", f"foo @ file:///{MARKER}"), 2, ["--pip: 'foo @ file:///zqmarker'", "no URL and no path"]),
    ("B10", run("--pip", f"git+ssh://{MARKER}/x"), 2, ["--pip: 'git+ssh://zqmarker/x'", "no URL and no path"]),
    ("B10", run("--pip", f"./{MARKER}"), 2, ["--pip: './zqmarker'"]),
    ("B11", run("--pip", f"{MARKER}=="), 2, ["--pip: 'zqmarker=='", "'numpy>=1.26'"]),
    ("B12", run("--pip", "${HOME}"), 2, ["--pip: '${HOME}'"]),
    ("B12", run("--pip", f"{MARKER}==${{HOME}}"), 2, ["--pip: 'zqmarker==${HOME}'"]),
    ("B12", run("--pip", f"$(touch {MARKER})"), 2, ["--pip: '$(touch zqmarker)'"]),
    *(
        ("B53", [command, "9007199254740992"], 1, ["9007199254740992", "does not exist"])
        for command in ("stop", "kill", "logs", "wait", "info")
    ),
    ("B53", ["label", "9007199254740992", MARKER], 1, ["9007199254740992", "does not exist"]),
    ("B53", ["stop", "9007199254740991", "9007199254740992"], 1, []),
    ("B59", ["events", "--after", MARKER], 1, ["after: 'zqmarker' is no cursor", "the 'cursor' of an event is one"]),
    ("B59", ["events", "--after", "1-1-1" + "0" * 400], 1, ["after: '1-1-1000", "is no cursor"]),
    ("B59", ["events", "--after", "x" * 50_000], 1, ["longer than 16384 bytes"]),
    ("B22", ["ls", f"{MARKER}/x"], 1, ["'zqmarker/x': no such file or resource"]),
    ("B22", ["cp", "runs/9007199254740992", "out"], 1, ["9007199254740992", "no such file or resource"]),
    ("B74", ["cp", f"uploads/{MARKER}", "out"], 1, ["'uploads/zqmarker': no such file or resource"]),
    ("B51", ["ps", "-r", MARKER], 1, ["No repository found named zqmarker"]),
    ("B60", ["keys", "rm", MARKER], 1, ["No key found with id, title or fingerprint zqmarker"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words", "code", "holds"), REFUSED, ids=[f"{row[0]}-{n}" for n, row in enumerate(REFUSED)]
)
async def test_what_the_server_refuses_is_told_and_nothing_comes_of_it(
    client, spell, tmp_path, row, words, code, holds
):
    _, before = await client.ask("GET", "/api/runs", params={"limit": 1})
    begun = time.monotonic()

    got, said, complaint, started = await asyncio.to_thread(spell, *words)

    plain = " ".join(complaint.split())
    assert got == code, (row, said, complaint)
    assert all(part in plain for part in holds), (row, complaint)
    assert "Traceback" not in complaint
    assert all(character.isprintable() or character == "\n" for character in complaint)
    assert not [line for line in started if MARKER in line]
    assert time.monotonic() - begun < 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / MARKER).exists()
    _, after = await client.ask("GET", "/api/runs", params={"limit": 1})
    assert [run["id"] for run in before["runs"]] == [run["id"] for run in after["runs"]]


async def test_of_a_run_that_is_accepted_git_hears_nothing_but_git_words(client, spell):
    """The programs that the table above says were not given the payload are noticed."""
    code, _, complaint, started = await asyncio.to_thread(spell, *run("-t", "cpu", "--env", f"A={MARKER}"))

    assert code == 0, complaint
    assert any("git" in line for line in started)
    assert not [line for line in started if MARKER in line]


async def test_a_run_of_a_type_without_machines_waits_and_says_why(client, spell):
    code, *_ = await asyncio.to_thread(spell, *run("-t", "cpu"))
    _, listed = await client.ask("GET", "/api/runs", params={"limit": 1})
    _, shown, *_ = await asyncio.to_thread(spell, "info", str(listed["runs"][0]["id"]))

    assert code == 0
    assert "no machine of this type is registered" in shown


@pytest.mark.parametrize("token", ["x", "spell_" + "x" * 43, "spell_\x1b", "é", "x" * 20_000, "a\r\nX: y"])
async def test_a_token_that_is_none_is_a_matter_of_configuration(spell, monkeypatch, token):
    monkeypatch.setenv("SPELL_TOKEN", token)

    code, said, complaint, _ = await asyncio.to_thread(spell, "ps")

    assert (code, said) == (3, ""), complaint
    assert "Traceback" not in complaint
    assert token[:100] not in complaint or len(token) < 6


async def test_what_is_brought_and_taken_away_is_told_to_programs(spell, tmp_path):
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "a").write_text("a")

    def told(*words, code=0):
        found, said, *_ = spell(*words, "--json")
        assert found == code
        return json.loads(said)

    def together():
        assert told("upload", "told")["files"] == 1
        assert told("link", "told-link", "uploads/told")["target"] == "uploads/told"
        assert told("cp", "uploads/told", "copy") == {"copied": 1, "links": 0, "skipped": 0, "ignored": []}
        assert told("cp", "told-link", "copy") == {"copied": 0, "links": 0, "skipped": 1, "ignored": []}
        assert told("unlink", "told-link") == {"removed": ["told-link"]}
        assert told("rm", "uploads/told", "uploads/nothing", code=1) == {"removed": ["uploads/told"]}
        assert told("cluster", "publish", "told", "public/told")["name"] == "told"
        assert told("cluster", "publish", "--remove", "public/told") == {"removed": ["public/told"]}

    await asyncio.to_thread(together)
