"""What a person types about files and links, against a whole stack."""

import json

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", name="made")
def _made(stack) -> int:
    """A run with files."""
    project = stack.repository({"file": "x"}, name="makes")
    run_id = stack.cast("mkdir -p model && echo weights > model/w.txt && echo top > top.txt", cwd=project)
    stack.until_final(run_id)
    return run_id


def test_a_link_is_made_shown_used_and_taken_away(stack, made):
    created = stack.spell("link", "best", f"runs/{made}/model")
    again = stack.spell("link", "best", f"runs/{made}/model")
    shown = stack.spell("link", "best")
    every = stack.spell("link")
    listed = stack.spell("ls", "best")
    top = stack.spell("ls")
    target = stack.work / "linked"
    copied = stack.spell("cp", "best/w.txt", str(target))
    removed = stack.spell("unlink", "best")

    assert created.rc == again.rc == 0, created
    assert created.stdout.startswith(f"Successfully created symlink:\nbest → runs/{made}/model ")
    assert shown.stdout == every.stdout == created.stdout.split("\n", 1)[1]
    assert listed.stdout.splitlines()[0].endswith(" w.txt")
    assert listed.stdout.splitlines()[-1] == f"best → runs/{made}/model"
    assert any(line.endswith(f"best → runs/{made}/model") for line in top.stdout.splitlines())
    assert copied.stdout == "✔ Copied 1 files.\n"
    assert (target / "w.txt").read_text() == "weights\n"
    assert (removed.rc, removed.stdout) == (0, "Successfully removed link with alias best.\n")
    assert stack.spell("ls", "best").rc == 1


def test_without_links_it_is_said_how_to_make_one(stack):
    result = stack.spell("link")

    assert (result.rc, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "No symlinks found!",
        "Use the command 'spell link [ALIAS] [RESOURCE_PATH]' to create a symlink to a resource.",
    ]
    assert json.loads(stack.spell("link", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "rc", "said"),
    [
        (("link", "runs", "runs/1"), 3, "Forbidden alias. Link aliases must not correspond to existing directories."),
        (("link", "a/b", "runs/1"), 3, 'none of /."\\[]:;|=,'),
        (("link", "nothing"), 1, "No links with alias nothing found."),
        (("unlink", "nothing"), 1, "No links with alias nothing found."),
        (("link", "x", "runs/999999"), 1, "'runs/999999': no such file or resource"),
        (("link", "x", "uploads"), 2, "is a list of resources; one of them can have a link"),
        (("link", "x", "runs/1/../2"), 2, "no '..'"),
        (("ls", "runs/x"), 2, "after 'runs/' comes the number of a run"),
        (("ls", "public/nothing"), 1, "'public/nothing': no such file or resource"),
        (("cp", "uploads", "out"), 1, '"uploads" is a list of resources.'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(stack, made, words, rc, said):
    result = stack.spell(*words)

    assert result.rc == rc, result
    assert said in " ".join(result.stderr.split()), result
    assert len(result.stderr) < 400
