"""A key stands for one content for ever (I17): built twice, damaged, and built differently, through the real builder."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import asyncpg
import pytest

from spell_builder import contents
from spell_proto.environments import LIST

pytestmark = pytest.mark.integration


def remove(path):
    subprocess.run(["chmod", "-R", "u+w", path], check=True)  # it is read-only
    shutil.rmtree(path)


def module_in(path, name):
    return next(Path(path).glob(f"lib/python*/site-packages/{name}.py"))


async def recorded(postgres, key):
    connection = await asyncpg.connect(postgres.url("builder"))
    try:
        return await connection.fetch("SELECT digest FROM builder.contents WHERE key = $1", key)
    finally:
        await connection.close()


async def test_an_environment_that_is_built_twice_has_one_content(builder, index, postgres):
    index.add("alpha", "1.0", text="the same")
    first = (await builder.ensure("alpha")).ready
    before = (Path(first["path"]) / LIST).read_bytes()
    remove(first["path"])
    remove(builder.data / "uv-cache")  # nothing is left of the first build, and time has passed
    await builder.end()
    await builder.start()

    again = (await builder.ensure("alpha")).ready

    check = await builder.verify("alpha")
    assert again["cached"] is False
    assert (Path(again["path"]) / LIST).read_bytes() == before
    assert [row["digest"] for row in await recorded(postgres, first["key"])] == [contents.digest(before)]
    assert (check.id, check.ok, check.checked) == ("I17", True, 1)
    assert (await builder.verify()).checked == 2  # and the bare one


@pytest.mark.violates("I17")
async def test_a_key_that_is_built_with_another_content_is_used_and_told(builder, index, tmp_path, postgres):
    index.add_from_source("stamped", "1.0", gate=tmp_path / "gate", stamped=True)
    (tmp_path / "gate" / "go").touch()
    first = (await builder.ensure("stamped")).ready
    fine = await builder.verify("stamped")
    remove(first["path"])
    remove(builder.data / "uv-cache")

    again = await builder.ensure("stamped")

    check = await builder.verify()
    assert fine.ok
    assert again.ready == first
    assert "The same package versions gave other files than when they were installed earlier" in again.lines
    assert len(await recorded(postgres, first["key"])) == 2
    assert check.detail == f"environment {first['key'][:12]} was built with 2 different contents"
    assert '"event":"an environment differs from an earlier one of its key"' in builder.log.read_text()


@pytest.mark.violates("I17")
@pytest.mark.parametrize("damage", ["changed", "added", "named", "gone", "unrecorded"])
async def test_what_was_changed_on_disk_is_found(builder, index, damage):
    index.add("alpha", "1.0")
    index.add("beta", "1.0")
    path = (await builder.ensure("alpha")).ready["path"]
    await builder.ensure("beta")
    module = module_in(path, "alpha")
    module.parent.chmod(0o755)
    match damage:
        case "changed":
            module.chmod(0o644)
            module.write_text(module.read_text().replace("1.0", "6.6"))  # as long as before
        case "added":
            (module.parent / "sneaked_in.py").touch()
        case "named":
            Path(os.fsdecode(os.fsencode(module.parent) + b"/no\xfftext.py")).touch()
        case "gone":
            module.unlink()
        case "unrecorded":
            listed = Path(path) / LIST
            listed.chmod(0o644)
            listed.write_bytes(listed.read_bytes()[:-1])

    check = await builder.verify("alpha")

    assert not check.ok
    assert check.detail.startswith(f"environment {Path(path).name[:12]}: ")
    assert {
        "changed": "alpha.py has changed",
        "added": "sneaked_in.py was added",
        "named": "/no\\udcfftext.py was added",
        "gone": "alpha.py is gone",
    }.get(damage, "never recorded") in check.detail
    assert (await builder.verify("beta")).ok


async def test_an_environment_from_before_contents_were_recorded_is_built_again_once(
    builder, index, postgres
):
    index.add("alpha", "1.0")
    ready = (await builder.ensure("alpha")).ready
    Path(ready["path"]).chmod(0o755)
    (Path(ready["path"]) / LIST).unlink()
    connection = await asyncpg.connect(postgres.url("builder"))
    await connection.execute("DELETE FROM builder.contents WHERE key = $1", ready["key"])
    await connection.close()

    check = await builder.verify("alpha")

    assert (check.ok, check.checked) == (True, 0)
    assert (await builder.ensure("alpha")).ready["cached"] is False
    assert (await builder.ensure("alpha")).ready["cached"] is True
    assert (await builder.verify("alpha")).checked == 1


async def test_a_ready_environment_is_found_as_fast_as_ever(builder):
    await builder.ensure()
    began = time.monotonic()
    for _ in range(50):
        await builder.resolved()

    assert (time.monotonic() - began) / 50 < 0.05
