"""`spell du` and `spell diff`: how much resources hold, and how two of them differ."""

import json
import os

import click

from spell_cli import bucket_files, config
from spell_cli.answers import Entry, Usage, UsageEntry
from spell_cli.args import Known, SpellCommand, json_option
from spell_cli.client import Client, chunks
from spell_cli.comparing import Change, Difference, compare, is_small_text, rows, text_difference
from spell_cli.errors import CliError
from spell_cli.paths import typed
from spell_cli.progress import Progress
from spell_cli.tables import safe
from spell_cli.terminal import note, say
from spell_cli.times import human_size
from spell_proto.resources import Listing

#: So many texts are shown; of the others only that they changed.
TEXTS_MAX = 50


@click.command(
    "du",
    cls=SpellCommand,
    # -h is for sizes here, as in du.
    context_settings={"help_option_names": ["--help"]},
    examples=("spell du -h", "spell du runs", "spell du -h runs/7", "spell du uploads/cifar/train"),
)
@click.option("-h", "--human", is_flag=True, help="Sizes with units.")
@json_option
@click.argument("path", default="", type=Known("path", "resources"))
def du(human: bool, as_json: bool, path: str) -> None:
    """Show how much is at PATH, and in each thing in it. Without PATH: in your runs and uploads.

    Files are counted with their whole size, though the bytes of equal ones are kept once.
    """
    client = Client(config.load(os.environ).connect())
    found = typed(path)
    url = None if isinstance(found, Listing) else bucket_files.url_of(client, found)
    if url is not None:
        usage = _summed(url, bucket_files.below(client, url).entries)
    else:
        usage = client.usage(found.name if isinstance(found, Listing) else found.text)
    if as_json:
        say(json.dumps(usage, ensure_ascii=True, indent=2))
        return
    above = f"{usage['path']}/" if usage["path"] else ""
    lines = [_line(entry["bytes"], f"{above}{entry['path']}", human=human) for entry in usage["entries"]]
    say("\n".join([*lines, _line(usage["bytes"], usage["path"] or "total", human=human)]))


def _line(size: int, path: str, *, human: bool) -> str:
    return f"{human_size(size) if human else size:>12} {safe(path)}"


def _summed(path: str, entries: list[Entry]) -> Usage:
    """What a bucket holds, by the first part of each name."""
    found: dict[str, UsageEntry] = {}
    for entry in entries:
        name, size = entry["path"].partition("/")[0], entry["size"] or 0
        before = found.get(name, UsageEntry(path=name, files=0, bytes=0))
        found[name] = UsageEntry(path=name, files=before["files"] + 1, bytes=before["bytes"] + size)
    return Usage(
        path=path,
        entries=[found[name] for name in sorted(found)],
        files=len(entries),
        bytes=sum(entry["bytes"] for entry in found.values()),
    )


@click.command(
    "diff",
    cls=SpellCommand,
    examples=(
        "spell diff runs/3 runs/7",
        "spell diff runs/3/train.log runs/7/train.log",
        "spell diff best runs/9",
    ),
)
@json_option
@click.argument("before", type=Known("path", "resources"))
@click.argument("after", type=Known("path", "resources"))
def diff(as_json: bool, before: str, after: str) -> None:
    """Show how AFTER differs from BEFORE: files that came, went or changed, and the lines of small texts.

    When a file was made does not matter. Exits with 0 whether they differ or not.
    """
    client = Client(config.load(os.environ).connect())
    sides = [_side(client, path) for path in (before, after)]
    files = [base != path for path, base, _ in sides]
    if files[0] != files[1]:
        raise CliError("One of the two is a file, the other one a directory.")
    old, new = sides[0][2], sides[1][2]
    if files[0]:
        # Two files are compared whatever they are called.
        old = [Entry(**{**old[0], "path": new[0]["path"]})]
    difference = compare(old, new)
    if as_json:
        say(json.dumps(_as_json(difference), ensure_ascii=True, indent=2))
        return
    names = (sides[0][0], sides[1][0]) if files[0] else None
    say("\n".join([*_texts(client, difference, (sides[0][1], sides[1][1]), names), *rows(difference)]))


def _side(client: Client, typed_path: str) -> tuple[str, str, list[Entry]]:
    """What was named, the directory that its files are relative to, and its files."""
    found = typed(typed_path)
    if isinstance(found, Listing):
        raise CliError(f"\"{safe(typed_path)}\" is a list of resources. Name one of them, as in 'runs/7'.")
    if bucket_files.url_of(client, found) is not None:
        raise CliError(f'"{safe(typed_path)}" is in a bucket, whose files have no SHA-256 to compare.')
    entries = client.resources(found.text, recursive=True)["entries"]
    parent, _, name = found.text.rpartition("/")
    alone = len(entries) == 1 and entries[0]["path"] == name and client.is_file(found.text)
    return found.text, parent if alone else found.text, entries


def _texts(
    client: Client, difference: Difference, bases: tuple[str, str], names: tuple[str, str] | None
) -> list[str]:
    """The lines in which small texts differ."""
    wanted = [change for change in difference.changed if is_small_text(change)]
    found: list[str] = []
    with Progress("Comparing") as progress:
        for number, change in enumerate(wanted[:TEXTS_MAX]):
            progress.update(f"{number} of {len(wanted[:TEXTS_MAX])}")
            paths = names or (f"{bases[0]}/{change.path}", f"{bases[1]}/{change.path}")
            found += text_difference(paths, *(_content(client, path) for path in paths))
    if len(wanted) > TEXTS_MAX:
        note(f"{len(wanted) - TEXTS_MAX} more changed files may be texts; name one of them to see its lines.")
    return found


def _content(client: Client, path: str) -> bytes:
    return b"".join(chunks(client.file(path, 0)))


def _as_json(difference: Difference) -> dict[str, object]:
    def changed(change: Change) -> dict[str, object]:
        return {"path": change.path, "before": change.before, "after": change.after}

    return {
        "added": difference.added,
        "removed": difference.removed,
        "changed": [changed(change) for change in difference.changed],
        "same": difference.same,
    }
