"""`spell ls` and `spell cp`: what is in resources."""

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from spell_cli import bucket_files, config
from spell_cli.answers import Entry
from spell_cli.answers import Listing as Listed
from spell_cli.args import Known, SpellCommand, json_option
from spell_cli.client import Client
from spell_cli.download import Fetch, Problem, blocked, clashes, fetch_all, is_there, plan
from spell_cli.errors import CliError, ConfigError, ExitCode
from spell_cli.paths import typed
from spell_cli.progress import Counted
from spell_cli.tables import safe
from spell_cli.terminal import ask, can_ask, note, of_stdout, safe_path, say, warn
from spell_cli.times import human_size, listing_date
from spell_proto.resources import Listing, Resource


@click.command(
    "ls",
    cls=SpellCommand,
    # -h is for sizes here, as in ls.
    context_settings={"help_option_names": ["--help"]},
    examples=("spell ls", "spell ls runs/7", "spell ls -h uploads/cifar/train", "spell ls s3://bucket/key"),
)
@click.option("-h", "--human", is_flag=True, help="Sizes with units.")
@json_option
@click.argument("path", default="", type=Known("path", "resources"))
def ls(human: bool, as_json: bool, path: str) -> None:
    """List what is at PATH: runs/N, uploads/NAME, public/..., s3://BUCKET, gs://BUCKET, a link, or something in one of them.

    Without PATH: what there is to look into.
    """
    resource = typed(path)
    listing = _listing(Client(config.load(os.environ).connect()), resource)
    entries = listing["entries"]
    if as_json:
        say(json.dumps(entries, ensure_ascii=True, indent=2))
        return
    if not entries:
        note(f"No files for path {safe(path)}" if path else "No files yet.")
        return
    now = datetime.now(UTC)
    lines = [_line(entry, now, human=human) for entry in entries]
    if listing["target"] is not None:
        through = f"{safe(listing['path'])} → {safe(listing['target'])}"
        lines += ["-" * len(through), through]
    say("\n".join(lines))


def _listing(client: Client, found: Resource | Listing) -> Listed:
    if isinstance(found, Listing):
        return client.resources(found.name, recursive=False)
    url = bucket_files.url_of(client, found)
    if url is None:
        return client.resources(found.text, recursive=False)
    target = url if found.text != url else None
    return Listed(path=found.text, target=target, entries=bucket_files.level(client, url), deleted=[])


def _line(entry: Entry, now: datetime, *, human: bool) -> str:
    size = "-" if entry["size"] is None else human_size(entry["size"]) if human else str(entry["size"])
    directory = entry["size"] is None and entry["link"] is None
    name = safe(entry["path"].rstrip("/")) + ("/" if directory else "")
    target = f" → {safe(entry['link'])}" if entry["link"] else ""
    changed = "  (changed while it was saved)" * entry.get("changed", False)
    return f"{size:>8} {listing_date(entry['modified_at'], now):<14} {name}{target}{changed}"


@click.command(
    "cp",
    cls=SpellCommand,
    examples=("spell cp runs/7 out", "spell cp runs/7/model.joblib", "spell cp s3://bucket/key data"),
)
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there.")
@click.option("-i", "--ignore", is_flag=True, help="Keep files that are there.")
@json_option
@click.argument("source_path", type=Known("path", "resources"))
@click.argument("local_dir", default=".", type=click.Path(file_okay=False))
def cp(force: bool, ignore: bool, as_json: bool, source_path: str, local_dir: str) -> int:
    """Fetch files into LOCAL_DIR: one file, or what a directory holds.

    Every file is verified, and takes its place only when it is whole. A copy that breaks off goes on where it was: type
    it again.
    """
    if force and ignore:
        raise ConfigError("Force and ignore cannot both be true.")
    if source_path.startswith("/"):
        raise ConfigError(
            f'Invalid source specification "{safe(source_path)}". Source path must be a relative path.'
        )
    found = typed(source_path)
    if isinstance(found, Listing):
        raise _is_list(source_path)
    source = _source(Client(config.load(os.environ).connect()), found)
    if any(entry["size"] is None and entry["link"] is None for entry in source.entries):
        raise _is_list(source_path)
    target = Path(local_dir)
    fetches, problems = plan(source.base, source.entries, target)
    ignored = {fetch.target for fetch in blocked(fetches)}
    why = "a local directory with that name already exists"
    problems += [Problem(fetch.entry["path"], why) for fetch in fetches if fetch.target in ignored]
    _name(problems)
    there = clashes(fetches)
    # What an earlier copy has brought need not be asked about.
    same = {fetch.target for fetch in there if not force and is_there(fetch)}
    others = [fetch for fetch in there if fetch.target not in same]
    kept = same | {fetch.target for fetch in _not_overwritten(others, force=force, ignore=ignore)}
    wanted = [fetch for fetch in fetches if fetch.target not in ignored | kept]
    target.mkdir(parents=True, exist_ok=True)
    try:
        refused = _copy(wanted, source.make_client)
    except KeyboardInterrupt:
        note("\nCopy aborted. To go on, run the same command again.")
        raise
    _name(refused)
    links = sum(fetch.entry["link"] is not None for fetch in wanted)
    copied = len(wanted) - len(refused) - links
    skipped = len(kept - ignored) + len(problems) + len(refused)
    if as_json:
        told = [problem._asdict() for problem in (*problems, *refused)]
        counts = {"copied": copied, "links": links, "skipped": skipped}
        say(json.dumps({**counts, "ignored": told}, ensure_ascii=True, indent=2))
    else:
        with_links = f", {links} link{'s' * (links != 1)}" if links else ""
        text = f"Copied {copied} files{with_links}." + (f" Skipped {skipped} files." if skipped else "")
        say(of_stdout().marked("✖" if refused else "✔", text))
    return ExitCode.REFUSED if refused else ExitCode.OK


def _name(problems: Sequence[Problem]) -> None:
    for problem in problems:
        warn(f"File '{safe_path(problem.path)}' ignored: {problem.why}.")


def _source(client: Client, found: Resource) -> bucket_files.Objects:
    """The files to fetch."""
    url = bucket_files.url_of(client, found)
    if url is not None:
        return bucket_files.below(client, url)
    entries = client.resources(found.text, recursive=True)["entries"]
    return bucket_files.Objects(_base(client, found.text, entries), entries, lambda: Client(client.server))


def _is_list(path: str) -> CliError:
    return CliError(
        f"\"{safe(path)}\" is a list of resources. Name one of them, as in 'spell cp runs/7 out'."
    )


def _base(client: Client, resource: str, entries: list[Entry]) -> str:
    """The directory that the entries are relative to: a file is listed alone, under its own name."""
    parent, _, name = resource.rpartition("/")
    alone = len(entries) == 1 and entries[0]["path"] == name and client.is_file(resource)
    return parent if alone else resource


def _not_overwritten(there: list[Fetch], *, force: bool, ignore: bool) -> list[Fetch]:
    """Those of the files that exist which are to stay as they are."""
    if force:
        return []
    if ignore:
        return there
    if there and not can_ask():
        raise CliError(
            f"File '{safe_path(there[0].target.name)}' already exists"
            + (f", and {len(there) - 1} more" if len(there) > 1 else "")
            + ". Use --force to overwrite or --ignore to keep what is there."
        )
    question = "File '{}' already exists. Are you sure you want to overwrite?"
    return [fetch for fetch in there if not ask(question.format(safe_path(fetch.target.name)), default=False)]


def _copy(wanted: list[Fetch], make_client: Callable[[], Client]) -> list[Problem]:
    total = sum(fetch.entry["size"] or 0 for fetch in wanted)
    with Counted("Copying", total) as counted:
        return fetch_all(make_client, wanted, counted.add)
