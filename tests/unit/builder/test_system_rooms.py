"""What one builder's process removes beside another one on the same data."""

from spell_builder.system import System


def test_only_what_dead_processes_left_is_removed(tmp_path):
    for process in ("living", "dead"):
        (tmp_path / "system" / process / "room/upper/usr").mkdir(parents=True)

    System(tmp_path, {}, process="mine").clean(lambda process: process == "living")

    assert [path.name for path in (tmp_path / "system").iterdir()] == ["living"]
