"""Code that is not what lies here: another commit, a repository that the server fetches; and what runs were given."""

import json
import os
import subprocess

import pytest

from integration.cli.conftest import SPELL

pytestmark = pytest.mark.integration


def out(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def sent(server):
    return server.posts("/api/runs")[-1][1]


def warned(done):
    return " ".join(done.stderr.decode().split())


@pytest.fixture
def two(pushing):
    """A repository with two commits, and changes on top of them that are not committed."""
    pushing.first = pushing.repository()
    pushing.git("tag", "v1")
    (pushing.cwd / "train.py").write_text("print(2)\n")
    pushing.git("commit", "-q", "-a", "-m", "Second")
    (pushing.cwd / "train.py").write_text("print(3)\n")
    (pushing.cwd / "untracked").touch()
    return pushing


@pytest.mark.parametrize("ref", ["HEAD~1", "v1", "main^", "main~1^{commit}", ":/Add"])
def test_another_commit_is_run_without_what_is_not_committed(two, server, endpoint, ref):
    if ref == ":/Add":
        ref = two.first
    done = two("run", "-b", "-c", ref, "true")

    assert out(done).splitlines()[0].startswith("💫")
    assert warned(done) == (
        f"WARNING: Repo contains uncommitted changes that will not be included in the run of commit {two.first[:8]}."
    )
    assert sent(server)["code"] == {"commit": two.first, "root_directory": "proj", "cwd": "."}
    assert sent(server)["description"] == "Add training\n\nWith a body."
    assert endpoint.refs() == [f"refs/heads/br_{two.first} {two.first}"]


def test_a_clean_repository_has_nothing_to_say_about_another_commit(pushing, server):
    commit = pushing.repository()
    (pushing.cwd / "untracked").touch()
    done = pushing("run", "-b", "--commit-ref", "main", "true")

    assert done.stderr == b""
    assert sent(server)["code"]["commit"] == commit


def test_a_directory_that_the_other_commit_does_not_have_is_kept(two, server):
    two.cwd = two.cwd / "new"
    two.cwd.mkdir()
    out(two("run", "-b", "-c", "HEAD~1", "true"))

    assert sent(server)["code"]["cwd"] == "new"


@pytest.mark.parametrize(
    "ref",
    [
        "HEAD~5",
        "nosuch",
        "",
        "--git-dir",
        "--output=x",
        "v1..main",
        "^main",
        "@{u}",
        "HEAD:train.py",
        "x y",
        "*",
    ],
)
def test_a_ref_that_is_no_commit_is_one_sentence(two, server, endpoint, ref):
    done = two("run", "-b", "-c", ref, "true")

    assert done.returncode == 5
    assert done.stdout == b""
    assert done.stderr.decode().startswith("ERROR: Could not resolve commit")
    assert warned(done) == f'ERROR: Could not resolve commit "{ref}" for repo {two.cwd}'
    assert (server.asked, endpoint.commands) == ([], [])
    assert not list(two.cwd.glob("x"))


def test_a_ref_is_echoed_without_what_acts_on_a_terminal(two):
    said = two("run", "-c", "\x1b[2J" + "x" * 500, "true").stderr

    assert b"\x1b" not in said
    assert len(said) < 300


def test_a_ref_outside_of_a_repository(cli, server):
    done = cli("run", "-c", "HEAD", "true")

    assert done.returncode == 6
    assert "Could not find a git repository" in warned(done)
    assert server.asked == []


@pytest.mark.parametrize(("bare", "says"), [(False, "has no commits!"), (True, "is bare")])
@pytest.mark.parametrize("words", [(), ("-c", "HEAD")])
def test_a_repository_with_nothing_to_run(cli, server, bare, says, words):
    cli.git("init", "-q", *(["--bare"] if bare else []))
    done = cli("run", "-b", *words, "true")

    assert done.returncode == 6
    assert says in warned(done)
    assert server.asked == []


def test_a_detached_head_is_fine(two, server):
    two.git("stash", "-q")
    two.git("checkout", "-q", "--detach", "v1")

    out(two("run", "-b", "-f", "true"))
    assert sent(server)["code"]["commit"] == two.first


def test_for_code_that_the_server_fetches_nothing_local_is_looked_at(cli, server, tmp_path):
    cli.repository()
    (cli.cwd / "untracked").touch()
    words = ("--github-url", "https://GitHub.com/owner/repository.git/", "--github-ref", "622d64")
    done = cli("run", "-b", *words, "git log -n 1 | cat", PATH=str(tmp_path))

    assert (out(done).splitlines()[0][:1], done.stderr) == ("💫", b"")
    assert sent(server) == {
        "command": "git log -n 1 | cat",
        "github": {"url": "https://github.com/owner/repository.git", "ref": "622d64"},
    }
    assert [path for _, path, _, _ in server.asked] == ["/api/runs"]


def test_without_a_ref_none_is_sent(cli, server):
    out(cli("run", "-b", "--github-url", "https://github.com/o/r", "true"))

    assert sent(server)["github"] == {"url": "https://github.com/o/r"}


def test_a_host_that_the_server_does_not_fetch_from_is_a_usage_error(cli, server):
    message = "--github-url: 'https://x.example/a/b': code is not fetched from there; allowed: github.com"
    server.refuse("POST", "/api/runs", 422, "host_not_allowed", message, field="github.url")
    done = cli("run", "-b", "--github-url", "https://x.example/a/b", "true")

    assert done.returncode == 2
    assert message in warned(done)


SUBMODULE = (
    '[submodule "a b"]\n\tpath = libs/a b\n\turl = https://x/y\n[submodule "c"]\n\turl = z\n\tpath = c\n'
)


def test_submodules_are_named(cli):
    cli.repository()
    (cli.cwd / ".gitmodules").write_text(SUBMODULE)
    cli.git("add", ".")
    cli.git("commit", "-q", "-m", "x")
    done = cli("run", "-b", "true")

    assert "does not currently support Git submodules" in warned(done)
    assert done.stderr.decode().splitlines()[-2:] == ["\tlibs/a b", "\tc"]


def test_pointers_of_git_lfs_are_named_20_at_most(cli):
    cli.repository()
    assert cli("run", "-b", "true").stderr == b""
    (cli.cwd / "data").mkdir()
    (cli.cwd / ".gitattributes").write_text("data/** filter=lfs diff=lfs merge=lfs -text\n")
    for number in range(22):
        (cli.cwd / "data" / f"{number:02}").write_text("version https://git-lfs.github.com/spec/v1\n")
    cli.git("-c", "filter.lfs.clean=", "add", ".")
    cli.git("commit", "-q", "-m", "x")
    cli.cwd = cli.cwd / "data"
    lines = cli("run", "-b", "true").stderr.decode().splitlines()

    assert "does not support git-lfs" in " ".join(lines)
    assert lines[-2:] == ["\tdata/19", "\t… and 2 more"]


CODE = {"repository_id": 1, "repository": "proj", "commit": "a" * 40, "snapshot": "b" * 40, "tree": "c" * 40}
CODE |= {"root_directory": "proj", "cwd": "."}


def test_a_patch_is_printed_byte_for_byte_over_a_connection_that_is_lost(cli, server):
    server.add_run()["spec"]["code"] = CODE
    server.patch = b"diff --git \xff\0\r\n\x1b[2J" * 1000
    done = cli("patch", "1")

    assert (done.returncode, done.stdout, done.stderr) == (0, server.patch, b"")


@pytest.mark.parametrize("code", [None, CODE | {"snapshot": None}])
def test_without_changes_there_is_no_patch(cli, server, code):
    server.add_run()["spec"]["code"] = code
    done = cli("patch", "1")

    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"Run 1 has no uncommitted changes.\n"


def test_on_a_terminal_a_patch_acts_on_nothing(cli, server):
    server.add_run()["spec"]["code"] = CODE
    server.spent.add(1)
    server.patch = b"diff \x1b]52;c;aGk=\x07 --git\n"
    terminal = cli.terminal("patch", "1")

    assert terminal.end() == 0
    assert b"\x1b]52" not in terminal.raw
    assert b"--git" in terminal.raw


def test_the_patch_of_a_run_that_is_not_there(cli):
    assert cli("patch", "9").returncode == 1


def test_repositories_are_listed(cli, server):
    assert cli("repos").stderr == b"No repositories yet.\n"
    known = {"id": 1, "owner_id": 1, "name": "proj", "root_commit": "a" * 40, "url": None, "remote_url": ""}
    known |= {"created_at": "2026-11-22T11:50:00Z", "updated_at": "2026-11-22T11:55:00Z"}
    fetched = known | {"name": "r", "root_commit": None, "url": "https://github.com/o/r"}
    server.repositories = [known, fetched]

    lines = out(cli("repos")).splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "CREATOR", "CREATED", "UPDATED", "FROM"],
        ["proj", "alice", "2026-11-22", "11:50:00", "2026-11-22", "11:55:00", "aaaaaaaa"],
        ["r", "alice", "2026-11-22", "11:50:00", "2026-11-22", "11:55:00", "https://github.com/o/r"],
    ]
    assert json.loads(out(cli("repos", "--json"))) == server.repositories


def with_stdin(cli, text, *words):
    return subprocess.run(
        [SPELL, *words], cwd=cli.cwd, env=cli.env, input=text, capture_output=True, timeout=20, check=False
    )


def test_credentials_are_stored_listed_and_deleted(cli, server):
    assert out(cli("cluster", "list-git-credentials")) == "There are no credentials stored.\n"
    words = (
        "cluster",
        "add-git-credentials",
        "git.example.org:8443",
        "--username",
        "alice",
        "--password-stdin",
    )
    done = with_stdin(cli, b"s3cret\n", *words)

    assert out(done) == "Successfully stored credentials of alice for git.example.org:8443.\n"
    put = next(body for method, _, _, body in server.asked if method == "PUT")
    assert put == {"username": "alice", "password": "s3cret"}
    listed = out(cli("cluster", "list-git-credentials"))
    assert listed.split() == [
        "HOST",
        "USERNAME",
        "ADDED",
        "git.example.org:8443",
        "alice",
        "2026-11-22",
        "11:50:00",
    ]
    assert json.loads(out(cli("cluster", "list-git-credentials", "--json")))[0]["username"] == "alice"
    assert "Successfully deleted" in out(cli("cluster", "delete-git-credentials", "git.example.org:8443"))
    assert server.credentials == []


def test_the_password_is_asked_for_without_being_shown(cli, server):
    terminal = cli.terminal("cluster", "add-git-credentials", "github.com")
    terminal.until("Password or access token of git for github.com: ")
    terminal.type("s3cret\n")

    assert terminal.end() == 0
    assert b"s3cret" not in terminal.raw
    assert server.credentials[0]["username"] == "git"


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\n", b"s3cret\0\n", b"s3cret" * 200])
def test_a_password_that_is_none_is_refused_without_being_shown(cli, server, text):
    done = with_stdin(cli, text, "cluster", "add-git-credentials", "github.com", "--password-stdin")

    assert done.returncode == 2
    assert b"s3cret" not in done.stderr
    assert server.asked == []


def test_a_password_is_no_option_and_nobody_is_asked_where_nobody_is(cli, server):
    done = cli("cluster", "add-git-credentials", "github.com", "--password", "s3cret")

    assert done.returncode == 2
    done = cli("cluster", "add-git-credentials", "github.com")
    assert done.returncode == 2
    assert "--password-stdin" in done.stderr.decode()
    assert server.asked == []


def completed(cli, *words):
    line = ["spell", *words]
    done = cli(COMP_WORDS="\n".join(line), COMP_CWORD=str(len(line) - 1), _SPELL_COMPLETE="bash_complete")
    return [entry.partition(",")[2] for entry in out(done).splitlines()]


def test_a_tab_offers_what_there_is(two, server):
    server.repositories = [{"name": "proj"}]
    server.keys = [{"title": "laptop", "fingerprint": "SHA256:x"}]
    server.credentials = [{"host": "github.com", "username": "a"}]
    server.add_run()

    assert completed(two, "run", "-c", "v") == ["v1"]
    assert set(completed(two, "run", "--commit-ref", "")) == {"HEAD", "main", "v1"}
    assert completed(two, "ps", "-r", "") == ["proj"]
    assert completed(two, "keys", "rm", "") == ["laptop"]
    assert completed(two, "patch", "") == ["1"]
    assert completed(two, "cluster", "delete-git-credentials", "") == ["github.com"]
    assert completed(two, "cluster", "add-git-credentials", "git.") == ["git.example.org:8443"]
    assert set(completed(two, "cluster", "")) == {
        "add-bucket",
        "list-buckets",
        "remove-bucket",
        "publish",
        "add-git-credentials",
        "list-git-credentials",
        "delete-git-credentials",
        "add-docker-registry",
        "list-docker-registries",
        "delete-docker-registry",
    }


def test_keys_are_asked_for_on_a_terminal(cli, server):
    ssh = cli.home / ".ssh"
    ssh.mkdir()
    for name in ("id_a.pub", "id_b.pub"):
        (ssh / name).write_text(f"ssh-ed25519 {name} me\n")
    done = cli("keys", "add")
    assert (done.returncode, b"id_a.pub, id_b.pub" in done.stderr) == (1, True)
    terminal = cli.terminal("keys", "add")
    terminal.until(f"Public key file [{ssh / 'id_a.pub'}]: ")
    terminal.type(f"{ssh / 'id_b.pub'}\n")
    terminal.until(f"Title [{os.uname().nodename}]: ")
    terminal.type("laptop\n")

    assert terminal.end() == 0
    assert server.posts("/api/keys")[-1][1] == {"title": "laptop", "public_key": "ssh-ed25519 id_b.pub me"}


def test_a_key_that_the_server_does_not_take_does_not_replace_one_that_works(cli, server):
    assert cli("keys", "generate").returncode == 0
    before = {path.name: path.read_bytes() for path in cli.spell_dir.glob("spell.pem*")}
    server.refuse("POST", "/api/keys", 422, "key_invalid", "no", field="public_key")
    assert cli("keys", "generate", "-f").returncode == 2

    assert {path.name: path.read_bytes() for path in cli.spell_dir.glob("spell.pem*")} == before
    assert not list(cli.spell_dir.glob(".new-*"))
    terminal = cli.terminal("keys", "generate")
    terminal.until("Overwrite existing key? [y/N]: ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert (cli.spell_dir / "spell.pem").read_bytes() != before["spell.pem"]
    assert (cli.spell_dir / "spell.pem").stat().st_mode & 0o777 == 0o600
