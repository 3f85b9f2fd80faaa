"""How two resources differ: what came, what went, what changed, and in which lines."""

from spell_cli.comparing import compare, is_small_text, rows, text_difference
from spell_cli.gathering import name_problem, stays_inside


def entry(path, size=1, sha256="a", mode=0o644, link=None, at="2026-01-01T00:00:00Z"):
    return {"path": path, "size": size, "sha256": sha256, "mode": mode, "link": link, "modified_at": at}


def test_files_that_came_went_and_changed_are_told_apart():
    before = [entry("same"), entry("gone", 10), entry("grown", 1), entry("l", 0, link="x"), entry("tool")]
    after = [
        entry("same", at="2026-02-02T00:00:00Z"),
        entry("grown", 2048, "b"),
        entry("new\n", 5),
        entry("l", 0, link="y"),
        entry("tool", mode=0o755),
    ]
    difference = compare(before, after)

    assert rows(difference) == [
        "- gone  10",
        "~ grown  1 became 2.0K",
        "~ l  → x became → y",
        "+ new\\n  5",
        "~ tool  mode 644 became 755",
        "1 added, 1 removed, 3 changed, 1 the same",
    ]


def test_nothing_differs_from_itself():
    files = [entry("a"), entry("b", 0, link="a")]

    assert rows(compare(files, files)) == ["0 added, 0 removed, 0 changed, 2 the same"]


def test_links_are_the_same_that_lead_to_the_same():
    """Whoever brought them has said what he likes of their size, content and mode."""
    one = [entry("l", 0, "of nothing", link="a"), entry("was a file")]
    other = [entry("l", 1, "of its text", 0o777, link="a"), entry("was a file", link="b")]

    assert rows(compare(one, other)) == [
        "~ was a file  1 became → b",
        "0 added, 0 removed, 1 changed, 1 the same",
    ]


def test_other_content_of_the_same_size_is_a_change():
    assert rows(compare([entry("a")], [entry("a", sha256="b")]))[0] == "~ a  1, other content"


def test_only_small_texts_are_shown_line_by_line():
    change = compare([entry("a")], [entry("a", sha256="b")]).changed[0]
    large = compare([entry("a", 1 << 20)], [entry("a", sha256="b")]).changed[0]
    moded = compare([entry("a")], [entry("a", mode=0o600)]).changed[0]
    link = compare([entry("a")], [entry("a", sha256="b", link="x")]).changed[0]

    assert [is_small_text(each) for each in (change, large, moded, link)] == [True, False, False, False]


def test_lines_are_shown_as_a_unified_diff_that_moves_no_cursor():
    found = text_difference(("runs/1/a", "runs/2/a"), b"one\ntwo\n", b"one\n\x1b[2Jtwo\n")

    assert found == ["--- runs/1/a", "+++ runs/2/a", "@@ -1,2 +1,2 @@", " one", "-two", "+\\x1b[2Jtwo"]


def test_what_is_no_text_has_no_lines():
    assert text_difference(("a", "b"), b"one", b"\xff") == []
    assert text_difference(("a", "b"), b"one\0", b"one") == []


def test_a_link_stays_inside_or_does_not():
    inside = [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../x/y"), ("a", "d/../b"), ("d/a", ".")]
    outside = [
        ("a", "../b"),
        ("d/a", "../../b"),
        ("a", "/b"),
        ("a", "b/../../c"),
        ("a", ""),
        ("a", "x\udcff"),
    ]

    assert [stays_inside(*pair) for pair in inside] == [True] * len(inside)
    assert [stays_inside(*pair) for pair in outside] == [False] * len(outside)


def test_a_name_that_no_upload_can_hold_says_why():
    assert name_problem("a/b\n\\:é") is None
    assert name_problem("a/\udcff") == "its name is not valid UTF-8"
    assert name_problem("a/%2E%2e/b") == "its name means '.' or '..' where it is escaped"
    assert name_problem("/".join(["x" * 200] * 20)) == "its path is longer than 3800 bytes"
    assert name_problem("d/" * 256 + "x") == "it is below more than 255 directories"
