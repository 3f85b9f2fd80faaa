"""The table of frameworks: what a name stands for, and what is said of a mistake in an operator's file."""

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from spell_builder import framework_files
from spell_builder.frameworks import OURS, Frameworks
from spell_proto.errors import InvalidError, SettingsError

CONTRACT = ("default", "tensorflow2", "mxnet", "fastai", "caffe", "dynet", "torch")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
SMALL = """
common = ["numpy"]

[frameworks.alpha]
summary = "Alpha"
aliases = ["a"]
packages = ["alpha[x]>=1", "beta"]
indexes = ["https://wheels.example/simple"]
python = ">=3.10"
apt = ["libalpha1>=2"]
base_image = "python:3.12"
note = "the old one is gone"
cuda = { packages = ["alpha[cuda]"], indexes = [] }

[frameworks.gamma]
summary = "Gamma"
image = "gamma/gamma:1"
version = "1.0"
"""


def table(text: str = SMALL, hosts: str = "") -> Frameworks:
    return Frameworks([framework_files.read(text, "own.toml")], hosts)


def test_the_names_of_the_original_and_todays_are_there():
    names = Frameworks.load("").names()

    assert names[0] == "default"
    assert {*CONTRACT, "tensorflow", "pytorch", "jax", "keras", "transformers", "scikit-learn"} <= set(names)


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("accelerator", [None, "cuda"])
def test_a_name_of_the_original_says_what_it_has_become(name, accelerator):
    expanded = Frameworks.load("").expand(name, accelerator)

    (note,) = expanded.notes
    assert note.startswith(f"--framework {name}: ")
    assert bool(expanded.image) != bool(expanded.pip)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("PyTorch", "pytorch"),
        ("huggingface", "transformers"),
        ("hf", "transformers"),
        ("sklearn", "scikit-learn"),
        ("tf", "tensorflow"),
    ],
)
def test_what_people_say_is_understood(asked, name):
    assert Frameworks.load("").expand(asked).name == name


def test_every_range_of_pythons_has_one_that_is_maintained():
    frameworks = Frameworks.load("")

    for name in frameworks.names():
        versions = SpecifierSet(frameworks.expand(name).python)
        assert any(f"3.{minor}.9" in versions for minor in (11, 12, 13)), name


def test_a_framework_is_its_packages_and_those_of_all():
    expanded = table().expand("alpha")

    assert expanded.pip == ("alpha[x]>=1", "beta", "numpy")
    assert (expanded.base_image, expanded.apt) == ("docker.io/library/python:3.12", ("libalpha1>=2",))
    assert (expanded.python, expanded.image) == (">=3.10", "")
    assert expanded.notes == ("--framework alpha: the old one is gone",)


def test_a_version_is_one_of_the_first_package_and_nothing_is_said_then():
    expanded = table().expand("A==1.5")

    assert expanded.pip == ("alpha[x]==1.5", "beta", "numpy")
    assert expanded.notes == ()


def test_a_machine_with_gpus_gets_what_is_different_for_it():
    expanded = table().expand("alpha==1.5", "cuda")

    assert expanded.pip == ("alpha[cuda]==1.5", "numpy")
    assert expanded.indexes == ()
    assert expanded.apt == ("libalpha1>=2",)


def test_processors_get_no_gigabytes_of_cuda_where_the_operator_lists_the_index():
    listed = Frameworks.load("", "example.org, download.pytorch.org")

    assert listed.expand("pytorch").indexes == (CPU_WHEELS,)
    assert listed.expand("pytorch", "cuda").indexes == ()
    assert Frameworks.load("").expand("pytorch").indexes == ()


def test_what_an_operator_names_is_trusted():
    assert table().expand("alpha").indexes == ("https://wheels.example/simple",)


def test_an_image_has_the_version_that_it_has():
    assert table().expand("gamma==1.0").image == "docker.io/gamma/gamma:1"
    with pytest.raises(
        InvalidError, match=r"gamma can only be had as an image, .* 2\.0 is not there"
    ) as refused:
        table().expand("gamma==2.0")

    assert (refused.value.code, refused.value.field) == ("framework_version_unknown", "environment.framework")


def test_an_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(InvalidError) as refused:
        Frameworks.load("").expand("pytroch")

    assert refused.value.code == "framework_unknown"
    assert "there is no framework pytroch. There is: default, caffe, " in refused.value.message
    assert refused.value.hint == "Did you mean pytorch?"


def test_an_operators_table_takes_the_place_of_ours_whole(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[frameworks.transformers]\nsummary = "Mine"\npackages = ["mine"]\ncommon = false\n')
    frameworks = Frameworks.load(str(own))

    assert frameworks.expand("transformers").pip == ("mine",)
    assert "pytorch" in frameworks.names()
    with pytest.raises(InvalidError):
        frameworks.expand("huggingface")


def test_a_name_comes_before_an_alias_of_another(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[frameworks.sklearn]\nsummary = "Mine"\npackages = ["mine"]\n')

    assert Frameworks.load(str(own)).expand("sklearn").pip[0] == "mine"


def test_an_operator_may_say_what_all_have_in_common(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("common = []\n")

    assert Frameworks.load(str(own)).expand("xgboost").pip == ("xgboost",)


def test_whatever_a_table_says_changes_its_fingerprint():
    before = table().expand("alpha").fingerprint

    assert table().stands(before)
    for old, new in (('"beta"', '"delta"'), ('common = ["numpy"]', 'common = ["scipy"]'), ("3.10", "3.11")):
        assert not table(SMALL.replace(old, new)).stands(before)
    assert table(SMALL.replace("gamma:1", "gamma:2")).stands(before)


def test_our_packages_are_packages():
    frameworks = Frameworks.load("")

    for name in frameworks.names():
        for accelerator in (None, "cuda"):
            for text in frameworks.expand(name, accelerator).pip:
                assert Requirement(text).url is None


GOOD = 'summary = "S"\npackages = ["p"]\n'
MISTAKES = [
    ("nonsense", "own.toml is no TOML file: "),
    ("framework = 1", "own.toml: framework: there is no such part; there are common and frameworks"),
    ("frameworks = 1", "own.toml: frameworks: a table for each framework is expected"),
    ('common = "numpy"', "own.toml: common: a list of texts is expected"),
    ('common = ["num py"]', "own.toml: common: 'num py' is not a package with versions"),
    ("[frameworks]\na = 1", "own.toml: [frameworks.a] : a table is expected"),
    (
        f"[frameworks.Alpha]\n{GOOD}",
        "[frameworks.Alpha] : the name of a framework is written in small letters",
    ),
    (f"[frameworks.'a b']\n{GOOD}", "[frameworks.a b] : 'a b' is not NAME or NAME==VERSION"),
    (
        f"[frameworks.a]\n{GOOD}package = 1",
        "[frameworks.a] package: there is no such field; there are aliases,",
    ),
    (f"[frameworks.a]\n{GOOD}cuda = 1", "[frameworks.a] cuda: a table is expected"),
    (
        f"[frameworks.a]\n{GOOD}cuda = {{ python = '3' }}",
        "[frameworks.a.cuda] python: there is no such field",
    ),
    ('[frameworks.a]\npackages = ["p"]', "[frameworks.a] summary: it is missing"),
    (
        '[frameworks.a]\nsummary = 7\npackages = ["p"]',
        "[frameworks.a] summary: a text in one line is expected",
    ),
    ('[frameworks.a]\nsummary = "x\\ny"\npackages = ["p"]', "[frameworks.a] summary: a text in one line"),
    ('[frameworks.a]\nsummary = "S"', "[frameworks.a] packages: either packages or an image is needed"),
    (f'[frameworks.a]\n{GOOD}image = "i"', "[frameworks.a] packages: either packages or an image is needed"),
    (
        f'[frameworks.a]\n{GOOD}base_image = "A/B"',
        "[frameworks.a] base_image: 'A/B' is not the name of an image",
    ),
    (
        '[frameworks.a]\nsummary = "S"\nimage = "i"\napt = ["x1"]',
        "[frameworks.a] image: it has everything in it",
    ),
    ('[frameworks.a]\nsummary = "S"\npackages = ["p @ https://x/y"]', "[frameworks.a] packages: "),
    (f'[frameworks.a]\n{GOOD}apt = ["X Y"]', "[frameworks.a] apt: 'X Y' is not a Debian package"),
    (f'[frameworks.a]\n{GOOD}python = "3.12"', "[frameworks.a] python: '3.12' is no range of versions"),
    (f'[frameworks.a]\n{GOOD}common = "no"', "[frameworks.a] common: true or false is expected"),
    (
        f'[frameworks.a]\n{GOOD}version = "1"',
        "[frameworks.a] version: only what exists as an image has one version",
    ),
    (f'[frameworks.a]\n{GOOD}aliases = ["b==1"]', "[frameworks.a] aliases: 'b==1' has a version; a name is"),
    (f'[frameworks.a]\n{GOOD}aliases = ["b", "b"]', "[frameworks.a] aliases: b is taken by [frameworks.a]"),
    (
        f'[frameworks.a]\n{GOOD}aliases = ["b"]\n[frameworks.b]\n{GOOD}',
        "[frameworks.b] aliases: b is taken by [frameworks.a]",
    ),
    *(
        (f'[frameworks.a]\n{GOOD}indexes = ["{url}"]', "[frameworks.a] indexes: ")
        for url in (
            "http://x/simple",
            "https://u:p@x/simple",
            "https://x/?a",
            "https://[x",
            "https:///x",
            "x",
        )
    ),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence_with_file_table_and_field(text, sentence):
    with pytest.raises(SettingsError) as caught:
        framework_files.read(text, "own.toml")

    assert sentence in str(caught.value)
    assert str(caught.value).startswith("own.toml")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing, binary = tmp_path / "missing.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"\xff")

    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read: No such file"):
        Frameworks.load(str(missing))
    with pytest.raises(SettingsError, match=r"binary\.toml are not UTF-8 text"):
        Frameworks.load(str(binary))


@pytest.mark.parametrize(
    ("default", "sentence"),
    [("no", "there is no framework no"), ("caffe", "caffe is an image; SPELL_DOCKER_IMAGE names one")],
)
def test_a_default_that_nothing_can_be_built_upon_is_refused(default, sentence):
    with pytest.raises(SettingsError, match=sentence):
        Frameworks.load("", "", default)


def test_ours_goes_with_the_distribution():
    assert OURS.is_file()
