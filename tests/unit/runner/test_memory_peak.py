"""What the kernel says of memory is read in the moment in which it has run out, in both of its ways."""

import select

from spell_runner.shim.memory import Group, Peak, group_of


def test_the_peak_is_taken_when_the_events_of_a_group_change(tmp_path):
    """As with the second version of control groups, whose files are played by plain ones."""
    (tmp_path / "memory.events").write_text("oom 0\n")
    (tmp_path / "memory.peak").write_text("1024\n")
    peak = Peak()

    peak.watch(Group(str(tmp_path), first=False))
    before = select.select([peak.events], [], [], 0)[0]
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "memory.events").write_text("oom 1\n")
    told = select.select([peak.events], [], [], 5)[0]
    peak.look()

    assert (before, told, peak.bytes) == ([], [peak.events], 4096)
    assert select.select([peak.events], [], [], 0)[0] == [], "what was heard is not heard again"


def test_a_group_that_cannot_be_seen_is_left_alone(tmp_path):
    for group in (None, Group(str(tmp_path / "gone"), first=True), Group(str(tmp_path), first=False)):
        peak = Peak()
        peak.watch(group)
        peak.look()

        assert (peak.bytes, peak.events) == (0, -1)


def test_only_the_group_of_the_container_itself_is_meant():
    assert group_of(1, "no-container-of-this-name") is None
    assert group_of(0, "") is None
