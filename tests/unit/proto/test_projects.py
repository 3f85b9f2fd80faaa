"""What a project says of itself is read where it stands there, and refused in one sentence where a build would have to
find it out.
"""

import pytest

from spell_proto.projects import NoProjectError, read

NOTHING = frozenset()


def given(pyproject: str | None = None, cfg: str | None = None, *, setup_py: bool = False, **more: str):
    files = {"pyproject.toml": pyproject, "setup.cfg": cfg, "setup.py": "" if setup_py else None}
    return read((files | {name.replace("_txt", ".txt"): text for name, text in more.items()}).get)


def project(text: str, **more: str):
    return given(text, **more)


def test_dependencies_extras_and_programs_are_read_from_pyproject():
    found = project(
        """
        [project]
        name = "My.Pkg"
        version = "1.2"
        dependencies = ["numpy>=1.26", "six; python_version > '3'"]
        scripts = {my-tool = "my_pkg.cli:main"}
        [project.optional-dependencies]
        Dev_Tools = ["pytest", "my-pkg[plot]"]
        plot = ["matplotlib"]
        [project.gui-scripts]
        my-window = "my_pkg.gui:App.run [plot]"
        [project.entry-points."other.plugins"]
        mine = "my_pkg.plugin"
        """
    )

    assert found.needs(()) == ("numpy>=1.26", "six; python_version > '3'")
    assert found.needs(("dev-tools",)) == (*found.needs(()), "pytest", "matplotlib")
    assert list(found.programs()) == [
        ("my-tool", "my_pkg.cli", "main"),
        ("my-window", "my_pkg.gui", "App.run"),
    ]
    assert found.entry_points["other.plugins"] == {"mine": "my_pkg.plugin"}


def test_a_declarative_setup_cfg_says_the_same():
    found = given(
        "[build-system]\nrequires = ['setuptools']\n",
        """
[metadata]
name = old
version = attr: old.VERSION
[options]
package_dir =
    = lib
install_requires =
    numpy>=1.26
    # a comment
    six
[options.extras_require]
dev = pytest
[options.entry_points]
console_scripts =
    Old-Tool = old.cli:main
""",
        setup_py=True,
    )

    assert (found.name, found.version, found.file) == ("old", "0", "setup.cfg")
    assert found.needs(("dev",)) == ("numpy>=1.26", "six", "pytest")
    assert list(found.programs()) == [("Old-Tool", "old.cli", "main")]
    assert found.where(NOTHING.__contains__) == ("lib",)


@pytest.mark.parametrize(
    ("text", "there", "roots"),
    [
        ("", (), (".",)),
        ("", ("src",), ("src",)),
        ("", ("src", "x"), (".",)),
        ("[tool.setuptools.package-dir]\n'' = './python/'", (), ("python",)),
        ("[tool.setuptools.packages.find]\nwhere = ['src', 'more']", (), ("src", "more")),
        ("[tool.hatch.build.targets.wheel]\npackages = ['lib/x', 'y']", (), ("lib", ".")),
        ("[tool.poetry]\npackages = [{include = 'x', from = 'lib'}]", (), ("lib",)),
        ("[tool.pdm.build]\npackage-dir = 'lib'", (), ("lib",)),
        ("[tool.uv.build-backend]\nmodule-root = ''", ("src",), (".",)),
        ("[tool.setuptools.package-dir]\n'' = '../out'", (), (".",)),
        ("[tool.setuptools.packages.find]\nwhere = ['/etc', 7, 'a/../../b']", (), (".",)),
    ],
)
def test_modules_are_where_the_tool_that_builds_it_is_told_they_are(text, there, roots):
    found = project(f"[project]\nname = 'x'\nversion = '1'\n{text}")

    assert found.where(frozenset(there).__contains__) == roots


@pytest.mark.parametrize(
    ("text", "cfg", "setup_py", "said"),
    [
        (None, None, False, "there is no pyproject.toml with [project] in it; only files that git knows"),
        ("", None, False, "there is no pyproject.toml with [project] in it"),
        (None, None, True, "only setup.py knows what it needs, and it is not run before: list them under"),
        (None, "[metadata]\nname=x", True, "only setup.py knows what it needs"),
        ("[tool.black]", "[flake8]\nx=1", True, "only setup.py knows"),
        ("[project", None, False, "its pyproject.toml is no TOML: "),
        (None, "x", False, "its setup.cfg cannot be read: "),
        (
            None,
            "[metadata]\nname=x\n[options]\ninstall_requires = file: req.txt",
            False,
            "are in 'req.txt', which is no file",
        ),
        (
            "[project]\nname='x'\ndynamic=['dependencies']\n[tool.setuptools.dynamic]\ndependencies={file=['../x']}",
            None,
            False,
            "are in '../x', which is no file",
        ),
        (
            "[project]\nname='x'\ndynamic=['dependencies']\n[tool.setuptools.dynamic]\ndependencies={file='more.txt'}",
            None,
            False,
            "have an option of pip, '-r b.txt'",
        ),
        (
            "[project]\nname='x'\ndynamic=['dependencies']\n[tool.setuptools.dynamic]\ndependencies=7",
            None,
            False,
            "are in 'None'",
        ),
        (
            "[project]\nname='x'\ndynamic=['dependencies']",
            None,
            False,
            "its dependencies are dynamic, so only a build",
        ),
        (
            "[project]\nname='x'\ndynamic=['optional-dependencies']",
            None,
            False,
            "its optional-dependencies are",
        ),
        ("[project]\n", None, False, "its pyproject.toml gives it no name"),
        ("[project]\nname='../x'", None, False, "gives it no name"),
        ("[project]\nname='x'\nversion=" + "1" * 5000, None, False, "is no TOML"),
        (
            "[project]\nname='x'\ndynamic=['dependencies']\n[tool.setuptools.dynamic.dependencies"
            + ".a" * 2000
            + "]",
            None,
            False,
            "what it says of itself cannot be read",
        ),
        (
            f"[project]\nname='x'\ndependencies=[\"y; {'(' * 3000}python_version>'3'{')' * 3000}\"]",
            None,
            False,
            "its dependencies: ",
        ),
        *(
            (None, f"[metadata]\nname = {name}", False, "its setup.cfg gives it no name: ")
            for name in ("/tmp/x", "../x", "a/b", "a\0b", "a b", "x\n  y", "-x", "x" * 300)
        ),
        (
            "[project]\nname='x'\ndependencies='numpy'",
            None,
            False,
            "its dependencies must be a list of texts",
        ),
        ("[project]\nname='x'\ndependencies=['a b']", None, False, "its dependencies: 'a b' is no package"),
        (
            "[project]\nname='x'\nscripts='a'",
            None,
            False,
            "'console_scripts' in its pyproject.toml must be a table",
        ),
        ("[tool.poetry]\n[tool.poetry.dependencies]\nx='1'", None, False, "in a form of poetry's own"),
        (
            "[build-system]\nbuild-backend='maturin'\n[project]\nname='x'",
            None,
            False,
            "it has to be compiled",
        ),
        (
            "[[tool.setuptools.ext-modules]]\nname='y'\n[project]\nname='x'",
            None,
            False,
            "it has to be compiled",
        ),
        ("[project]\nname='x'\n" + "a=" + "[" * 5000, None, False, "is no TOML"),
    ],
)
def test_what_only_a_build_could_tell_is_refused(text, cfg, setup_py, said):
    with pytest.raises(NoProjectError) as refused:
        given(text, cfg, setup_py=setup_py, more_txt="a\n-r b.txt\n")

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_extra_that_is_not_there_is_named_with_those_that_are():
    found = project("[project]\nname='x'\n[project.optional-dependencies]\nb=[]\na=['x[a]']")

    assert found.needs(("a",)) == ()
    with pytest.raises(NoProjectError, match="it has no extra 'dev'; there are: a, b"):
        found.needs(("dev",))


def test_dependencies_that_setuptools_reads_from_files_are_read_there():
    dynamic = "[tool.setuptools.dynamic]\ndependencies = {file = ['req.txt']}\noptional-dependencies.dev = {file = 'dev.txt'}"
    text = f"[project]\nname='x'\ndynamic=['version', 'dependencies', 'optional-dependencies']\n{dynamic}"

    found = project(text, req_txt="# all\nnumpy>=1 \\\n ,<3\nsix # why\n", dev_txt="pytest")
    classic = given(cfg="[metadata]\nname=x\n[options]\ninstall_requires = file: req.txt", req_txt="six")

    assert found.needs(("dev",)) == ("numpy>=1  ,<3", "six", "pytest")
    assert classic.needs(()) == ("six",)
