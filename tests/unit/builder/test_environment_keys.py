"""An environment is named after its exact content, and a request is read as it was meant."""

from dataclasses import replace

import pytest

from spell_builder.keys import Interpreter, environment_key, wanted

PYTHON = Interpreter("/usr/bin/python3.11", "CPython 3.11.7", "linux-x86_64", "glibc 2.36")
PINNED = "six==1.17.0 --hash=sha256:" + "a" * 64 + "\n"


def test_equal_content_has_an_equal_key():
    assert environment_key(PYTHON, PINNED) == environment_key(replace(PYTHON), PINNED)


@pytest.mark.parametrize(
    "other",
    [
        replace(PYTHON, path="/opt/python/bin/python3.11"),
        replace(PYTHON, version="CPython 3.11.8"),
        replace(PYTHON, platform="linux-aarch64"),
        replace(PYTHON, libc="glibc 2.40"),
    ],
)
def test_whatever_changes_the_content_changes_the_key(other):
    assert environment_key(other, PINNED) != environment_key(PYTHON, PINNED)


def test_other_packages_have_another_key():
    assert environment_key(PYTHON, PINNED) != environment_key(PYTHON, "")


def test_requirements_are_resolved_once_each_and_in_order():
    assert wanted(("torch>=2", "numpy", "numpy", "Flask[async]>=3")) == (
        ["Flask[async]>=3", "numpy", "torch>=2"],
        [],
    )


@pytest.mark.parametrize("name", ["sklearn", "SKLearn", "Sklearn"])
def test_sklearn_means_scikit_learn_with_its_versions_and_extras(name):
    lines, notes = wanted((f"{name}[tests]>=1.5",))

    assert lines == ["scikit-learn[tests]>=1.5"]
    assert notes == [f"{name} is called scikit-learn in the package index; installing scikit-learn"]
