"""The catalogue of bad input, field by field: one sentence that names the field; nothing is guessed."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from spell_proto import checks
from spell_proto.errors import InvalidError, RefusedError
from spell_proto.http import parse_json
from spell_proto.spec import EnvironmentRequest, RunRequest, pip_requirement, pip_requirements

REQUEST = TypeAdapter(RunRequest)


@pytest.mark.parametrize(
    ("check", "value", "code"),
    [
        (checks.command, "", "command_empty"),
        (checks.command, "  \n ", "command_empty"),
        (checks.command, "x" * 65_537, "command_too_long"),
        (checks.command, "a\0b", "command_not_text"),
        (checks.command, "a\ud800b", "command_not_text"),
        (checks.env_name, "", "env_name_invalid"),
        (checks.env_name, "1A", "env_name_invalid"),
        (checks.env_name, "A B", "env_name_invalid"),
        (checks.env_name, "ÄB", "env_name_invalid"),
        (checks.env_name, "LD_PRELOAD", "env_reserved"),
        (checks.env_name, "SPELL_RUN", "env_reserved"),
        (checks.label, "", "label_invalid"),
        (checks.label, "a,b", "label_invalid"),
        (checks.label, "a/b", "label_invalid"),
        (checks.label, "a\x1b]52", "label_invalid"),
        (checks.label, "x" * 65, "label_too_long"),
        (checks.description, "x" * 5000, "description_too_long"),
        (checks.description, "a\0b\ud800", "description_not_text"),
        (checks.timeout_seconds, "-1", "number_out_of_range"),
        (checks.timeout_seconds, "0", "number_out_of_range"),
        (checks.timeout_seconds, "1e9", "number_out_of_range"),
        (checks.timeout_seconds, "NaN", "number_out_of_range"),
        (checks.timeout_seconds, "１２", "number_out_of_range"),
        (checks.timeout_seconds, "0x10", "number_out_of_range"),
        (checks.timeout_seconds, "9999999999", "number_out_of_range"),
        (checks.run_id, "abc", "run_id_invalid"),
        (checks.run_id, "0", "run_id_invalid"),
        (checks.run_id, "-1", "run_id_invalid"),
        (checks.run_id, "9e99", "run_id_invalid"),
        (checks.run_id, "1;drop", "run_id_invalid"),
        (checks.run_id, "9" * 17, "run_id_invalid"),
        (checks.commit, "HEAD", "commit_invalid"),
        (checks.commit, "--upload-pack=x", "commit_invalid"),
        (checks.root_directory, "..", "root_directory_invalid"),
        (checks.root_directory, "a/b", "root_directory_invalid"),
        (checks.cwd, "../x", "cwd_invalid"),
        (checks.cwd, "/etc", "cwd_invalid"),
        (checks.cwd, "a//b", "cwd_invalid"),
        (pip_requirement, "--index-url=http://x", "pip_spec_invalid"),
        (pip_requirement, "-r x", "pip_spec_invalid"),
        (pip_requirement, "foo @ file:///etc/passwd", "pip_url_not_allowed"),
        (pip_requirement, "foo@https://x/y.whl", "pip_url_not_allowed"),
        (pip_requirement, "git+ssh://x/y", "pip_url_not_allowed"),
        (pip_requirement, "./x", "pip_url_not_allowed"),
        (pip_requirement, "foo==", "pip_spec_invalid"),
        (pip_requirement, "${API_KEY}", "pip_spec_invalid"),
        (pip_requirement, "foo==${X}", "pip_spec_invalid"),
        (pip_requirement, "", "pip_spec_invalid"),
        (pip_requirement, "x" * 1001, "pip_spec_too_long"),
    ],
)
def test_bad_values_are_refused_with_their_code(check, value, code):
    with pytest.raises(InvalidError) as refused:
        check(value)

    assert refused.value.code == code
    assert len(refused.value.message) < 400
    assert refused.value.field is not None


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 5400), ("90s", 90), ("2h", 7200), ("3d", 259_200), ("5m", 300)]
)
def test_time_limits_are_minutes_or_have_a_unit(given, seconds):
    assert checks.timeout_seconds(given) == seconds


def test_machine_types_are_found_in_any_letter_case_and_otherwise_listed():
    assert checks.machine_type("t4", ["CPU", "T4"]) == "T4"
    for bad in ("T5000", "", "t4 "):
        with pytest.raises(InvalidError, match=r"choose from CPU, T4"):
            checks.machine_type(bad, ["CPU", "T4"])


def test_too_many_of_anything_is_refused():
    with pytest.raises(InvalidError) as refused:
        pip_requirements(tuple(f"p{number}" for number in range(501)))
    assert refused.value.code == "too_many_packages"
    with pytest.raises(InvalidError) as refused:
        checks.labels(str(number) for number in range(51))
    assert refused.value.code == "too_many_labels"
    with pytest.raises(InvalidError) as refused:
        checks.env({f"A{number}": "" for number in range(1001)})
    assert refused.value.code == "too_many_env"


def test_env_values_may_hold_newlines_but_are_bounded():
    assert checks.env({"A": "x\ny"}) == {"A": "x\ny"}
    with pytest.raises(InvalidError) as refused:
        checks.env({"A": "x" * 32_769})
    assert refused.value.code == "env_too_large"


def test_descriptions_lose_control_characters_and_bidi_overrides():
    assert checks.description("a\x1b[31mb\u202ec\n") == "a[31mbc"


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"command":"a"} x', 400, "JSON"),
        (b'\xef\xbb\xbf{"command":"a"}', 400, "JSON"),
        (b'{"command":"a","command":"b"}', 400, "twice"),
        (b"[" * 100_000, 400, "deep"),
        (b'{"command":' + b"9" * 5000 + b"}", 400, "JSON"),
        (b'{"command":"a","nope":1}', 422, "nope"),
        (b'{"command":1}', 422, "command"),
        (b'{"command":"a","timeout_seconds":"4"}', 422, "timeout_seconds"),
        (b'{"command":"a","timeout_seconds":true}', 422, "timeout_seconds"),
        (b'{"command":null}', 422, "command"),
        (b"{}", 422, "command"),
        (b'{"command":"\\ud800"}', 400, ""),
        (b'{"command":"a\\u0000"}', 422, "NUL"),
    ],
)
def test_bad_bodies_are_refused_in_one_sentence(body, status, part):
    with pytest.raises(RefusedError) as refused:
        parse_json(body, REQUEST)

    assert refused.value.status == status
    assert part in refused.value.message
    assert "\n" not in refused.value.message


def test_all_wrong_members_are_named_in_one_answer():
    with pytest.raises(InvalidError) as refused:
        parse_json(b'{"command":1,"labels":2,"nope":3}', REQUEST)
    assert all(name in refused.value.message for name in ("command", "labels", "nope"))


def test_rules_of_ours_and_of_the_shape_are_named_together():
    """The first problem gives code and JSON path; every sentence is there."""
    with pytest.raises(InvalidError) as refused:
        parse_json(b'{"command":"","bogus":1,"labels":"x","environment":{"pip":["-r x"]}}', REQUEST)

    assert (refused.value.code, refused.value.field) == ("command_empty", "command")
    for part in ("command: it is empty", "bogus", "labels", "--pip"):
        assert part in refused.value.message


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_refused_but_never_breaks_a_check(text):
    for check in (
        checks.command,
        checks.env_name,
        checks.label,
        checks.description,
        checks.timeout_seconds,
        checks.run_id,
        checks.commit,
        checks.cwd,
        checks.root_directory,
        pip_requirement,
    ):
        with contextlib.suppress(InvalidError):
            check(text)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=10))
def test_any_json_for_a_request_is_accepted_or_refused(value):
    with contextlib.suppress(ValidationError, InvalidError):
        REQUEST.validate_python(value)


#: Each member with a value that it may have beside the others, but for `conda`, which stands alone.
ASKED = {
    "pip": ("numpy",),
    "requirements": "numpy",
    "constraints": "six<2",
    "python": "3.11",
    "apt": ("ffmpeg",),
    "framework": "pytorch",
    "accelerator": "cuda",
    "key": "a" * 64,
}
WHOLE = {*ASKED, "conda", "latest"}


@pytest.mark.parametrize("member", ASKED)
def test_every_member_of_an_environment_changes_its_digest(member):
    others = [name for name in ASKED if name != member]
    assert set(EnvironmentRequest.model_fields) == WHOLE

    for count in range(len(others) + 1):
        for names in itertools.combinations(others, count):
            without = {name: ASKED[name] for name in names}
            with_it = EnvironmentRequest(**without, **{member: ASKED[member]})
            assert with_it.digest() != EnvironmentRequest(**without).digest(), names


def test_what_a_conda_file_says_changes_the_digest():
    digests = {
        EnvironmentRequest(conda=conda, apt=apt).digest()
        for conda in (None, "dependencies: [a]", "dependencies: [b]")
        for apt in ((), ("ffmpeg",))
    }

    assert len(digests) == 6


@pytest.mark.parametrize("member", ["pip", "requirements"])
def test_a_marker_of_parentheses_is_refused_and_not_followed(member):
    deep = f"x; {'(' * 485}python_version>'3'{')' * 485}"

    with pytest.raises(ValidationError, match="maximum recursion depth"):
        EnvironmentRequest(**{member: (deep,) if member == "pip" else deep})


def test_equal_environments_have_equal_digests_in_any_order():
    left = EnvironmentRequest(pip=("numpy>=1", "six"))
    assert left.digest() == EnvironmentRequest(pip=("six", "numpy>=1", "six")).digest()
    assert left.digest() != EnvironmentRequest(pip=("six",)).digest()
