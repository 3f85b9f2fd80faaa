"""`python -m spell_builder.rattling`: one question to rattler on stdin, its answer on stdout, both JSON.

A program of its own, because rattler's threads can be ended in no other way, and its memory is then given back.
"""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import rattler
from rattler import exceptions
from rattler.config import Config
from rattler.package.build_string import BuildString

#: A run that writes to its environment must not reach the cache; links within a package stay links.
_LINKS = "allow-hard-links = false\nallow-symbolic-links = true\n"
_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.SolverError, "unsatisfiable"),
    (exceptions.InvalidMatchSpecError, "spec"),
)


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer a question; `failed` says why there is no answer."""
    try:
        if "specs" in asked:
            return {"packages": await _solve(asked)}
        await _install(asked)
    except Exception as error:  # noqa: BLE001 -- told to whoever asked
        kind = next((name for cause, name in _KINDS if isinstance(error, cause)), "other")
        return {"failed": str(error) or repr(error), "kind": kind}
    return {}


async def _solve(asked: dict[str, Any]) -> list[str]:
    cache = Path(asked["cache"])
    records = await rattler.solve(
        asked["channels"],
        [rattler.MatchSpec(spec, strict=False) for spec in asked["specs"]],
        gateway=rattler.Gateway(cache_dir=cache / "repodata"),
        platforms=[rattler.Subdir.current(), rattler.Subdir("noarch")],
        virtual_packages=rattler.VirtualPackage.detect(),
        # A channel must not send us on to others.
        channel_relations="disabled",
    )
    packages = []
    for record in records:
        if record.sha256 is None:
            raise ValueError(f"the channel tells no SHA-256 of {record.file_name}")
        packages.append(f"{record.url}#sha256:{record.sha256.hex()}")
    return sorted(packages)


async def _install(asked: dict[str, Any]) -> None:
    records = []
    for each in asked["packages"]:
        channel, subdir, file = each["url"].rsplit("/", 2)
        _check(each)
        package = rattler.PackageRecord(
            name=each["name"],
            version=each["version"],
            build=BuildString(each["build"]),
            build_number=0,
            subdir=subdir,
            sha256=bytes.fromhex(each["sha256"]),
        )
        records.append(rattler.RepoDataRecord(package, file, each["url"], channel))
    await rattler.install(
        records,
        asked["prefix"],
        cache_dir=Path(asked["cache"]) / "packages",
        show_progress=False,
        # Packages bring no programs that run while they are installed.
        execute_link_scripts=False,
        alternative_target_prefix=asked["final"],
        config=Config.from_toml(_LINKS),
    )


def _check(package: dict[str, Any]) -> None:
    """Hold a file of this disk against its digest: rattler does so only for what it downloads."""
    if package["url"].startswith("file://"):
        path = Path(unquote(package["url"].removeprefix("file://")))
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != package["sha256"]:
                raise ValueError(f"{path.name} has another SHA-256 than it should have")


if __name__ == "__main__":
    answer = json.dumps(asyncio.run(main(json.load(sys.stdin))))
    sys.stdout.write(answer)
    sys.stdout.flush()
    # Its threads may still be at work, and would abort while Python ends.
    os._exit(0)
