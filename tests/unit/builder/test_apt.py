"""What apt says becomes exact packages, or one sentence that names the package and the reason."""

import fcntl
import subprocess
from pathlib import Path

import pytest

from spell_builder import apt, layers, pins
from spell_builder.errors import BuildFailedError, IndexUnreachableError
from spell_proto.apt import parse

POLICY = """cowsay:
  Installed: (none)
  Candidate: 3.03+dfsg2-8
  Version table:
     3.03+dfsg2-8 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
libc6:
  Installed: 2.36-9+deb12u14
  Candidate: 2.36-9+deb12u14
  Version table:
 *** 2.36-9+deb12u14 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
     2.36-9+deb12u7 500
        500 http://security.debian.org/debian-security bookworm-security/main amd64 Packages
g++:
  Installed: (none)
  Candidate: 4:12.2.0-3
  Version table:
     4:12.2.0-3 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
mail-transport-agent:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
PLAN = """The following NEW packages will be installed:
  cowsay libtext-charwidth-perl
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Inst libtext-charwidth-perl (0.04-11 Debian:12.15/oldstable [amd64])
Inst cowsay [3.03+dfsg2-7] (3.03+dfsg2-8 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [all])
Conf libtext-charwidth-perl (0.04-11 Debian:12.15/oldstable [amd64])
"""
RECORDS = f"""Package: libtext-charwidth-perl
Version: 0.04-11
Architecture: amd64
Depends: perl:any
Description-en: columns
 A continued line: of no matter.
SHA256: {"a" * 64}

Package: cowsay
Version: 3.03+dfsg2-8
Architecture: all
SHA256: {"b" * 64}

"""


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["cowsay"], ["cowsay"]),
        (["g++"], ["g++"]),
        (["libc6<=2.36-9+deb12u7"], ["libc6=2.36-9+deb12u7"]),
        (["libc6>=2.36"], ["libc6=2.36-9+deb12u14"]),
        (["cowsay", "cowsay>=3", "cowsay<4"], ["cowsay=3.03+dfsg2-8"]),
    ],
)
def test_conditions_become_the_highest_version_that_fits_them_all(asked: list[str], words: list[str]) -> None:
    assert apt.words([parse(each) for each in asked], POLICY, "") == words


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["cowsy"], "apt: unable to locate package cowsy; did you mean cowsay?"),
        (["nosuchpkg"], "apt: unable to locate package nosuchpkg"),
        (["bash+"], "apt: unable to locate package bash+; did you mean bash?"),
        (
            ["mail-transport-agent"],
            "apt: no package is called mail-transport-agent: it is only a name that others provide",
        ),
        (
            ["libc6>2.36-9+deb12u7", "libc6<2.36-9+deb12u14"],
            (
                "apt: there is no version of libc6 that is >2.36-9+deb12u7 and <2.36-9+deb12u14; there is: "
                "2.36-9+deb12u14, 2.36-9+deb12u7"
            ),
        ),
    ],
)
def test_a_package_or_version_that_is_not_there_is_named(asked: list[str], sentence: str) -> None:
    with pytest.raises(BuildFailedError) as refused:
        apt.words([parse(each) for each in asked], POLICY, "bash\ncowsay\ncowpoke\nlibc6\n")

    assert str(refused.value) == sentence
    assert refused.value.package == parse(asked[0]).name


def test_a_plan_becomes_exact_packages_that_a_lock_keeps() -> None:
    found = apt.packages(PLAN, RECORDS)

    assert found == (
        apt.Exact("cowsay", "3.03+dfsg2-8", "all", "b" * 64),
        apt.Exact("libtext-charwidth-perl", "0.04-11", "amd64", "a" * 64),
    )
    text = layers.with_apt(found[:1], found[1:], "six==1.17.0 --hash=sha256:00\n")
    assert (layers.base_part(text), layers.apt_part(text)) == (found[:1], found[1:])
    assert layers.without_apt(text) == layers.pip_part(text) == "six==1.17.0 --hash=sha256:00\n"
    assert [pin.head for pin in pins.read(text)] == [
        "cowsay==3.03+dfsg2-8",
        "libtext-charwidth-perl==0.04-11",
        "six==1.17.0",
    ]


def test_system_packages_may_stand_in_front_of_conda_packages() -> None:
    conda = layers.joined(["https://conda.example.org/linux-64/zlib-1.3-h1.conda#sha256:" + "c" * 64])
    text = layers.with_apt((), apt.packages(PLAN, RECORDS), layers.with_pip(conda, "six==1.17.0\n"))

    assert layers.is_conda(text)
    assert [package.name for package in layers.conda_part(text)] == ["zlib"]
    assert layers.pip_part(text) == "six==1.17.0\n"


def test_a_package_without_a_digest_is_refused() -> None:
    with pytest.raises(BuildFailedError, match="tells no SHA-256 of cowsay"):
        apt.packages(PLAN, RECORDS.partition("\n\n")[0])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("E: Unable to locate package nosuchpkg\n", "apt: unable to locate package nosuchpkg"),
        (
            "E: Version '9' for 'cowsay' was not found\n",
            "apt: there is no version 9 of cowsay in the package index any more",
        ),
        (
            (
                "The following packages have unmet dependencies:\n"
                " libcurl4-gnutls-dev : Conflicts: libcurl4-openssl-dev\n"
                "E: Unable to correct problems, you have held broken packages.\n"
            ),
            "apt: the packages do not go together: libcurl4-gnutls-dev: Conflicts: libcurl4-openssl-dev",
        ),
        (
            (
                "The following packages will be REMOVED:\n  usrmerge init\nE: Packages need to be removed but remove is "
                "disabled.\n"
            ),
            "apt: packages of the system would have to be removed: usrmerge init",
        ),
        (
            "Errors were encountered while processing:\n broken\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "apt: Sub-process /usr/bin/dpkg returned an error code (1)",
        ),
        (
            "E: Failed to fetch http://deb.example.org/x.deb  404  Not Found [IP: 192.0.2.1 80]\n",
            "apt: http://deb.example.org/x.deb cannot be fetched: 404 Not Found [IP: 192.0.2.1 80]",
        ),
        ("", "apt: apt gave no reason"),
    ],
)
def test_a_failure_is_one_sentence(said: str, sentence: str) -> None:
    error = apt.failure(said)

    assert str(error) == sentence
    assert not isinstance(error, IndexUnreachableError)


@pytest.mark.parametrize(
    "reason",
    [
        "Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        "Could not resolve 'nosuch.example.invalid'",
        "503  Service Unavailable [IP: 192.0.2.1 80]",
        "Hash Sum mismatch",
    ],
)
def test_only_trouble_of_the_network_is_worth_another_try(reason: str) -> None:
    error = apt.failure(f"E: Failed to fetch http://deb.example.org/InRelease  {reason}\n")

    assert isinstance(error, IndexUnreachableError)


def test_no_word_of_a_request_is_taken_for_one_of_the_shell() -> None:
    script = apt.look(["g++"]) + apt.plan(["g++=4:12.2.0-3"]) + apt.begin({"A": "$(id)"}, fresh_minutes=5)

    assert "export A='$(id)'" in script
    assert " -- g++=4:12.2.0-3" in script


def test_a_package_for_another_architecture_stays_one() -> None:
    plan = "Inst libc6:i386 (2.36-9 Debian:12/stable [i386])\nInst libc6 [2.36-8] (2.36-9 Debian:12/stable [amd64])\n"
    records = "".join(
        f"Package: libc6\nVersion: 2.36-9\nArchitecture: {architecture}\nSHA256: {digest * 64}\n\n"
        for architecture, digest in (("i386", "a"), ("amd64", "b"))
    )
    found = apt.packages(plan, records)

    assert found == (
        apt.Exact("libc6", "2.36-9", "amd64", "b" * 64),
        apt.Exact("libc6:i386", "2.36-9", "i386", "a" * 64),
    )
    assert tuple(apt.read_exact(str(package)) for package in found) == found
    assert " -- libc6=2.36-9 libc6:i386=2.36-9 " in apt.install(found)


def test_lists_that_are_fresh_are_read_by_many_at_once(tmp_path: Path) -> None:
    (tmp_path / "updated").touch()
    begin = apt.begin({"SPELL_APT_LISTS": str(tmp_path)}, fresh_minutes=5)
    with (tmp_path / "spell.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        done = subprocess.run(["sh", "-c", f"{begin}echo read"], capture_output=True, timeout=10, check=True)

        assert done.stdout == b"read\n"


def test_while_packages_are_installed_others_may_have_newer_lists() -> None:
    script = apt.install([apt.Exact("cowsay", "3.03", "all", "b" * 64)])

    assert script.index("--download-only") < script.index("exec 9>&-") < script.index("--no-download")
