"""What uv writes when it fails becomes one sentence with the package and the reason."""

import pytest

from spell_builder.complaints import failure
from spell_builder.errors import IndexUnreachableError

NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: "


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            NO_SOLUTION + "Because nowhere was not found in the package registry and you require nowhere, "
            "we can conclude that your requirements are unsatisfiable.\n",
            "pip: there is no package nowhere in the package index",
        ),
        (
            NO_SOLUTION + "Because there is no version of six==99 and you require six==99, we can conclude "
            "that your requirements are unsatisfiable.\n",
            "pip: there is no version of six==99 in the package index for this Python",
        ),
        (
            NO_SOLUTION + "you require six<0, which does not allow any versions\n",
            "pip: the packages do not go together: you require six<0, which does not allow any versions",
        ),
        (
            NO_SOLUTION
            + "Because flask>=3.0.0 depends on jinja2>=3.1.2 and you require jinja2<3, we can conclude "
            "that your requirements and flask>=3.0.0 are incompatible.\n"
            "         And because you require flask>=3, we can conclude that your requirements are unsatisfiable.\n",
            (
                "pip: the packages do not go together: flask>=3.0.0 depends on jinja2>=3.1.2 and you require jinja2<3. "
                "And because you require flask>=3"
            ),
        ),
        (
            (
                "error: Failed to build `requests==1.2.3`\n  cause: The build backend returned an error\n"
                "  cause: Call to `setuptools.build_meta:__legacy__.build_wheel` failed (exit status: 1)\n\n"
                '         [stderr]\n         Traceback (most recent call last):\n           File "<string>", line 14\n'
                "         ImportError: cannot import name 'MutableMapping' from 'collections'\n\n"
                "hint: Build failures usually indicate a problem with the package or the build environment\n"
            ),
            "pip: requests==1.2.3 cannot be built: ImportError: cannot import name 'MutableMapping' from 'collections'",
        ),
        (
            (
                "error: Failed to install: big-1.0-py3-none-any.whl (big==1.0)\n"
                "  cause: failed to copy file\n  cause: No space left on device (os error 28)\n"
            ),
            "pip: the packages cannot be installed: No space left on device (os error 28)",
        ),
        ("", "pip: the packages cannot be installed: uv gave no reason"),
    ],
)
def test_a_failure_is_one_sentence(output, sentence):
    assert str(failure(output)) == sentence


@pytest.mark.parametrize(
    ("cause", "worth_another_try"),
    [
        (
            "error sending request for url (https://u:p@h/simple/six/)\n  cause: Connection refused (os error 111)",
            True,
        ),
        ("HTTP status server error (503 Service Unavailable) for url (https://h/simple/six/)", True),
        ("error sending request\n  cause: client error (Connect)\n  cause: dns error", True),
        ("HTTP status client error (403 Forbidden) for url (https://h/simple/six/)", False),
        ("error sending request\n  cause: invalid peer certificate: UnknownIssuer", False),
    ],
)
def test_trouble_of_the_network_is_told_from_trouble_that_stays(cause, worth_another_try):
    error = failure(f"error: Failed to fetch: https://user:secret@h/simple/six/\n  cause: {cause}\n")

    assert isinstance(error, IndexUnreachableError) is worth_another_try
    assert "the package index cannot be read (https://h/simple/six/)" in str(error)
    assert "secret" not in str(error)


def test_a_sentence_stays_readable_however_much_uv_says():
    error = failure(NO_SOLUTION + "because " + "x " * 5000)

    assert len(str(error)) <= 600


def test_what_a_build_prints_for_a_terminal_or_for_nobody_is_left_out():
    output = (
        "error: Failed to build `six==1`\n  cause: The build backend returned an error\n\n[stderr]\n"
        "\x1b[31mValueError: a\x00 b\x07 \x1b]8;;https://h\x07c\x1b]8;;\x07\x9b d\u202e\x1b[0m\x1b\n"
    )

    assert str(failure(output)) == "pip: six==1 cannot be built: ValueError: a b c d"


@pytest.mark.parametrize(
    "answer", ["Connection refused (os error 111)", "HTTP status client error (404 Not Found)"]
)
def test_a_package_by_its_address_is_told_in_one_way_whatever_was_answered_there(answer):
    error = failure(
        "error: Failed to download `x @ http://u:pw@127.0.0.1:5432/x.zip`\n"
        f"  cause: Failed to fetch: `http://127.0.0.1:5432/x.zip`\n  cause: {answer}\n"
    )

    assert str(error) == (
        "pip: x would come from http://127.0.0.1:5432/x.zip; a package index and git+https:// are allowed"
    )


@pytest.mark.parametrize("url", ["https://user:p@ss@h/simple", "http://u:pw/p@h/simple"])
def test_a_password_is_hidden_to_its_end(url):
    error = failure(f"error: Failed to fetch: `{url}/six/`\n  cause: {url} went wrong\n")

    for part in ("ss@", "pw", "/p"):
        assert part not in str(error)
