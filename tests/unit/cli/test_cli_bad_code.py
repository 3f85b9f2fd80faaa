"""The catalogue of bad input, rows about code: refused by the flag, and neither git nor anything else is started."""

import pytest

URL = "https://github.com/owner/repository"
ONLY_HTTPS = "only https:// is allowed"
NO_URL = "is not a URL like https://github.com/owner/repository"
CREDENTIALS = "--github-url: it holds credentials"
NO_REF = "is not a branch, a tag or a commit hash"
URLS = [
    *(
        ("B32", url, ONLY_HTTPS)
        for url in (
            "",
            "-u x",
            "--upload-pack=x",
            "file:///etc/passwd",
            "ext::sh -c id",
            "EXT::sh -c id",
            "ssh://-oProxyCommand=x/y",
            "git://github.com/o/r",
            "http://github.com/o/r",
            "HTTPS://github.com/o/r",
            "git@github.com:o/r.git",
            "/etc",
            " https://github.com/o/r",
            "\x1b[2J",
            "\udcff",
        )
    ),
    *(("B33", url, NO_URL) for url in ("https://169.254.169.254/", "https://localhost", "https://[::1]/a/b")),
    *(
        ("B34", url, CREDENTIALS)
        for url in ("https://user:s3cret@github.com/a/b", "https://s3cret@github.com/a", "https://s3cret@", "https://@h/s")
    ),
    ("B34", "http://user:s3cret@github.com/a/b", ONLY_HTTPS),
    ("B34", "user:s3cret@github.com/a/b", ONLY_HTTPS),
    ("B34", "https:///user:s3cret@github.com/a/b", NO_URL),
    ("B34", "https://github.com/s3cret@x/b", NO_URL),
    *(
        ("B35", url, NO_URL)
        for url in (
            "https:///host",
            "https://",
            "https://github.com",
            "https://github.com/",
            "https://github.com//o",
            "https://github.com/o/../r",
            "https://github.com/o/.git",
            "https://github.com/o/...git",
            "https://github.com/o/..git",
            "https://github.com/o/.git.git",
            "https://github.com/o/r\r\nHost: x",
            "https://github.com/o/r%0a",
            "https://github.com/o/r?x",
            "https://github.com/o/r#x",
            "https://github.com:0/o/r",
            "https://github.com:99999/o/r",
            "https://git hub.com/o/r",
            "https://github.com/o/r;id",
            "https://github.com/$(id)/r",
            "https://ｇithub.com/o/r",
        )
    ),
    ("B35", "https://github.com/" + "x" * 5000, "above 2,048 characters"),
]  # fmt: skip
REFS = [
    "",
    "--upload-pack=x",
    "-h",
    "a..b",
    "@{u}",
    "@",
    "x y",
    "*",
    "a^",
    "a~1",
    "a:b",
    "a\\b",
    "a//b",
    "/a",
    "a/",
    "a.lock",
    ".a",
    "a\n",
    "a\0",
    "\x1b",
    "x" * 5000,
    "\udcff",
]


def refused(spell, *words):
    code, said, complaint = spell("run", *words, "true")
    complaint = " ".join(complaint.split())

    assert (code, said) == (2, ""), complaint
    assert complaint.startswith("Usage: spell run ")
    assert all(character.isprintable() for character in complaint)
    assert len(complaint) < 600
    return complaint


@pytest.mark.parametrize(("row", "url", "holds"), URLS, ids=[f"{row[0]}-{n}" for n, row in enumerate(URLS)])
def test_a_url_that_is_none_of_a_repository(spell, row, url, holds):
    complaint = refused(spell, "--github-url", url)

    assert "--github-url: " in complaint, row
    assert holds in complaint
    assert "s3cret" not in complaint


@pytest.mark.parametrize("ref", REFS, ids=[str(number) for number in range(len(REFS))])
def test_b37_a_ref_that_git_would_not_take(spell, ref):
    complaint = refused(spell, "--github-url", URL, "--github-ref", ref)

    assert "--github-ref: " in complaint
    assert NO_REF in complaint or "not valid UTF-8" in complaint


def test_b39_a_ref_without_a_repository(spell):
    assert "--github-ref: it needs --github-url" in refused(spell, "--github-ref", "main")


def test_a_commit_of_here_and_a_repository_of_there(spell):
    complaint = refused(spell, "--github-url", URL, "--commit-ref", "main")

    assert "--commit-ref and --github-url exclude each other" in complaint


def test_a_corrected_line_holds_no_password(spell):
    code, _, complaint = spell("run", "python x.py", "--github-url", "https://user:s3cret@github.com/a/b")
    complaint = " ".join(complaint.split())

    assert code == 2
    assert 'spell run --github-url "https://…@github.com/a/b"' in complaint
    assert "s3cret" not in complaint


@pytest.mark.parametrize(
    "words", [["add-git-credentials", "github.com"], ["add-git-credentials"], ["nosuch"]]
)
def test_a_slip_in_cluster(spell, words):
    code, said, _ = spell("cluster", *words)

    assert (code, said) == (2, "")
