"""Which directories of a machine get a layer, and the words that put one over them."""

import shlex

from spell_builder import overlays
from spell_builder.overlays import Entry, Machine

ENTRIES = (
    Entry("bin", "usr/bin"),
    Entry("dev"),
    Entry("etc"),
    Entry("home"),
    Entry("proc"),
    Entry("tmp"),
    Entry("usr"),
    Entry("var"),
)
MACHINE = Machine(
    ENTRIES,
    ("etc", "usr", "var"),
    ("etc", "usr", "var/lib/dpkg"),
    ("/var/lib/docker", "/etc/resolv.conf"),
    "/usr/bin/bwrap",
    ("unshare", "--mount", "--"),
)


def pairs(words, option):
    return [(words[at + 1], words[at + 2]) for at, word in enumerate(words) if word == option]


def command(words):
    """The words behind `exec` of the script."""
    return shlex.split(words[-1].partition("\nexec ")[2])


def test_the_real_directories_that_packages_change_get_a_layer():
    assert overlays.parts_of(ENTRIES) == ("etc", "usr", "var")
    assert overlays.parts_of((Entry("bin"), Entry("lib64", "usr/lib64"))) == ("bin",)


def test_what_is_mounted_below_them_is_found_outer_ones_first():
    mountinfo = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 8:1 /x /var/lib/docker/over\\040lay rw - ext4 /dev/a rw\n"
        "3 1 8:1 /x /var/lib/docker rw - ext4 /dev/a rw\n"
        "4 1 8:1 /x /data rw - ext4 /dev/a rw\n"
        "5 1 8:1 /x /varnish rw - ext4 /dev/a rw\n"
    )

    assert overlays.mounts_below(("usr", "var"), mountinfo) == (
        "/var/lib/docker",
        "/var/lib/docker/over lay",
    )


def test_data_below_such_a_directory_is_noticed():
    assert overlays.stands_below(("usr", "var"), "/var/lib/spell") == "/var"
    assert overlays.stands_below(("usr", "var"), "/data/spell") is None
    assert overlays.stands_below(("usr", "var"), "/") is None


def test_nothing_of_the_machine_can_be_written_while_packages_are_installed():
    words = overlays.changing(MACHINE, "/data/room", readable=("/data/ca",), writable=("/data/lists",))
    argv = command(words)

    assert words[:3] == ["unshare", "--mount", "--"]
    assert pairs(argv, "--bind") == [
        ("/data/room/upper/etc", "/etc"),
        ("/data/room/upper/usr", "/usr"),
        ("/data/room/upper/var", "/var"),
        ("/data/room/mounted/etc", "/etc"),
        ("/data/room/mounted/usr", "/usr"),
        ("/data/room/mounted/var/lib/dpkg", "/var/lib/dpkg"),
        *((f"/data/room/scratch/{place}", f"/{place}") for place in overlays.SCRATCH),
        ("/data/lists", "/data/lists"),
    ]
    assert pairs(argv, "--ro-bind") == [("/home", "/home"), ("/data/ca", "/data/ca")]
    assert ("usr/bin", "/bin") in pairs(argv, "--symlink")
    assert "upperdir=upper/var/lib/dpkg" in words[-1]


def test_a_program_that_is_shown_a_layer_cannot_change_it():
    words = overlays.showing(MACHINE, "/data/a, layer: odd", "/data/room", ["uv", "pip", "a b"])
    argv = command(words)

    assert pairs(argv, "--ro-bind") == [
        ("/data/room/mounted/etc", "/etc"),
        ("/data/room/mounted/usr", "/usr"),
        ("/data/room/mounted/var/lib/dpkg", "/var/lib/dpkg"),
    ]
    assert argv[-3:] == ["uv", "pip", "a b"]
    assert words[-1].startswith("cd '/data/a, layer: odd'\n")
    # Its path is in no option of a mount, where a comma or a colon would mean something.
    assert "lowerdir=etc:/etc" in words[-1]
