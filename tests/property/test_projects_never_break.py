"""Whatever stands in the files of a project: it is read, or refused in words."""

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spell_proto.projects import NoProjectError, read

KEYS = st.sampled_from(
    [
        "name",
        "version",
        "dependencies",
        "dynamic",
        "optional-dependencies",
        "scripts",
        "entry-points",
        "tool",
        "setuptools",
        "file",
        "package-dir",
        "packages",
        "find",
        "where",
        "hatch",
        "poetry",
        "x",
    ]
)
SCALARS = st.one_of(
    st.integers(), st.booleans(), st.text(max_size=8), st.sampled_from(["dependencies", "..", "/x", "six"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return (
        '"' + "".join(f"\\U{ord(each):08x}" for each in value) + '"' if isinstance(value, str) else str(value)
    )


@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, VALUES), st.text(max_size=60))
def test_a_project_is_read_or_refused(project, tools, other):
    text = f"project = {toml({'name': 'x', **project})}\ntool = {toml({'setuptools': tools, **tools})}\n"
    for content in (
        {"pyproject.toml": text},
        {"pyproject.toml": other},
        {"setup.cfg": other, "setup.py": ""},
    ):
        with contextlib.suppress(NoProjectError):
            found = read(content.get)
            found.needs(())
            list(found.programs())
            found.where(lambda name: name == "src")
