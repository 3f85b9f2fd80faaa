"""Which layer stands on which, and what an image says of itself."""

from spell_builder import apt, image_layers, layers
from spell_builder.keys import Interpreter, environment_key
from spell_builder.resolver import Recipe

BASE = "docker.io/library/debian@sha256:" + "d" * 64
PYTHON = Interpreter("/usr/bin/python3.11", "CPython 3.11.2", "linux-x86_64", "glibc 2.36", BASE)
CONDA = Interpreter("/opt/spell/conda", "CPython 3.12.1", "linux-x86_64", "glibc 2.36", BASE)
GIT = apt.Exact("git", "1:2.39.5-0+deb12u3", "amd64", "a" * 64)
COW = apt.Exact("cowsay", "3.03+dfsg2-8", "all", "b" * 64)
PINNED = "six==1.17.0 --hash=sha256:00\n"


def chain(top: Recipe) -> list[str]:
    """What each layer holds, the topmost first."""
    found: list[str] = []
    layer: Recipe | None = top
    while layer is not None:
        found.append(layer.resolved)
        layer = image_layers.below(layer, PYTHON)
    return found


def test_pip_stands_on_apt_and_apt_on_the_foundation() -> None:
    top = Recipe(PYTHON, layers.with_apt((GIT,), (COW,), PINNED))

    assert chain(top) == [
        top.resolved,
        layers.with_apt((GIT,), (COW,), ""),
        layers.with_apt((GIT,), (), ""),
    ]


def test_conda_stands_between_apt_and_pip_and_has_a_python_of_its_own() -> None:
    conda = layers.joined(["https://conda.example.org/linux-64/python-3.12.1-h1.conda#sha256:" + "c" * 64])
    top = Recipe(CONDA, layers.with_apt((), (COW,), layers.with_pip(conda, PINNED)))

    assert chain(top) == [
        top.resolved,
        layers.with_apt((), (COW,), conda),
        layers.with_apt((), (COW,), ""),
        "",
    ]
    assert image_layers.place(top) == "/opt/spell/conda"
    under = image_layers.below(Recipe(CONDA, layers.with_apt((), (COW,), conda)), PYTHON)
    assert under is not None
    assert under.interpreter == PYTHON


def test_the_base_image_is_part_of_a_key_and_old_keys_stay_what_they_were() -> None:
    local = Interpreter("/usr/bin/python3.11", "CPython 3.11.2", "linux-x86_64", "glibc 2.36")

    assert environment_key(local, "") != environment_key(PYTHON, "")
    assert environment_key(local, "") == "f59ed91a16bf299e30a8c76bb90b4b747a235edd082651f2dfe32b4a03474d5d"


def test_an_image_says_what_its_base_says_but_for_the_path_of_its_python() -> None:
    before = {
        "Config": {
            "Env": ["PATH=/opt/spell/environment/bin:/usr/bin:/bin", "LANG=de"],
            "Cmd": ["bash"],
            "Entrypoint": ["/entry"],
            "User": "app",
            "Labels": {"theirs": "1"},
        }
    }
    made = image_layers.config(before, Recipe(PYTHON, PINNED), {"ours": "2"})

    assert made["Env"] == ["PATH=/opt/spell/environment/bin:/usr/bin:/bin:/usr/games", "LANG=de"]
    assert (made["Cmd"], made["Entrypoint"], made["User"]) == (["bash"], ["/entry"], "app")
    assert made["Labels"] == {"theirs": "1", "com.spellrun.managed": "environment", "ours": "2"}


def test_an_image_of_a_registry_is_pinned_by_its_digest_there_and_another_by_its_id() -> None:
    digest = "debian@sha256:" + "d" * 64
    inspected = {
        "Id": "sha256:" + "1" * 64,
        "RepoDigests": ["ghcr.io/other/debian@sha256:" + "e" * 64, digest],
    }

    assert image_layers.pinned("debian:bookworm-slim", inspected) == BASE
    assert image_layers.pinned("quay.io/library/debian:1", inspected) == inspected["Id"]
    assert image_layers.pinned(inspected["Id"], inspected) == inspected["Id"]


def test_no_word_of_an_index_is_taken_for_one_of_the_shell() -> None:
    words = ["pip", "install", "--default-index", "https://u:$(id)@h/simple"]
    script = image_layers.with_pip(Recipe(PYTHON, PINNED), words, hashed=True, git=False)

    assert "'https://u:$(id)@h/simple'" in script
