"""`spell upload` and `spell rm`: what people bring, and take away again."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from spell_cli import answers, config
from spell_cli.args import Known, SpellCommand, json_option, usage_errors
from spell_cli.errors import CliError, ExitCode, UnreachableError
from spell_cli.gathering import Gathered, gather, looked_at
from spell_cli.packing import pack
from spell_cli.paths import typed
from spell_cli.progress import Counted, Progress
from spell_cli.sending import Sender, digest_of
from spell_cli.tables import safe
from spell_cli.terminal import can_ask, complain, note, safe_path, say, warn
from spell_cli.times import human_size
from spell_cli.upload_client import UploadClient
from spell_proto import resources
from spell_proto.errors import NotFoundError, RefusedError
from spell_proto.resources import Upload

ARCHIVE = "upload.tar.gz"
#: What the server was told is here may be gone by the time it is named; then it is sent after all.
_ROUNDS_MAX = 3
_NOTES_MAX = 20


class Wanted(NamedTuple):
    """An upload to be made: what it is called, and how to get on with it."""

    name: str
    path: str
    compressed: bool
    again: str
    quiet: bool = False


@click.command(
    "upload",
    cls=SpellCommand,
    examples=(
        "spell upload cifar                  the directory, as uploads/cifar",
        "spell upload -n cifar10 ~/data/c10  another name",
        "spell upload -n weights model.pt    a file, as uploads/weights/model.pt",
        "spell upload --compress texts       many small files, or text over a slow line",
    ),
)
@click.option("-n", "--name", metavar="NAME", help="What it is called. A directory's own name, unless given.")
@click.option("-c", "--compress", is_flag=True, help="Send one compressed archive, unpacked by the server.")
@json_option
@click.argument("path", type=click.Path(path_type=Path))
def upload(name: str | None, compress: bool, as_json: bool, path: Path) -> None:
    """Bring a directory, or a file, as uploads/NAME: to be mounted into runs, listed and copied.

    What the server has of it already is not sent. An upload that breaks off goes on where it was: type it again.
    """
    looked_at(path)
    name = _name(path, name)
    again = ["spell", "upload", *(["--compress"] if compress else []), "--name", name, str(path)]
    wanted = Wanted(name, f"{resources.UPLOADS}/{name}", compress, shlex.join(again), quiet=as_json)
    server = config.load(os.environ).connect()
    done = bring(lambda: UploadClient(server), path, wanted)
    if as_json:
        say(json.dumps(done, ensure_ascii=True, indent=2))
    else:
        say(f"Upload of {safe(name)} ({safe_path(str(path))}) to '{safe(wanted.path)}' complete.")


@click.command("rm", cls=SpellCommand, examples=("spell rm uploads/cifar", "spell rm uploads/a uploads/b"))
@json_option
@click.argument("paths", metavar="uploads/NAME...", nargs=-1, required=True, type=Known("path", "resources"))
def rm(as_json: bool, paths: tuple[str, ...]) -> int:
    """Take uploads away, for good. Runs that have one mounted keep it until they end."""
    wanted = [(path, typed(path)) for path in dict.fromkeys(paths)]
    client = UploadClient(config.load(os.environ).connect())
    removed: list[str] = []
    for path, resource in wanted:
        if not isinstance(resource, Upload) or resource.path:
            complain(f"{safe_path(path)}: You must specify an uploaded resource.")
            continue
        try:
            client.remove(resource.text)
        except NotFoundError as error:
            complain(error.message)
        else:
            removed.append(resource.text)
            if not as_json:
                say(f"Successfully removed {safe(resource.text)}.")
    if as_json:
        say(json.dumps({"removed": removed}, ensure_ascii=True, indent=2))
    return ExitCode.OK if len(removed) == len(wanted) else ExitCode.REFUSED


def bring(make_client: Callable[[], UploadClient], path: Path, wanted: Wanted) -> answers.Upload:
    """Make an upload of a directory, or a file.

    Raises:
        CliError: it is empty, or cannot be brought.
        RefusedError: the name is taken, which is found out before anything is looked through.
    """
    _refuse_taken(make_client(), wanted)
    with Progress("Looking at files") as progress:
        found = gather(path, lambda count: progress.update(f"{count:,}"))
    for text in found.notes[:_NOTES_MAX]:
        warn(text + ".")
    if len(found.notes) > _NOTES_MAX:
        warn(f"{len(found.notes) - _NOTES_MAX} more are left out.")
    if found.empty:
        were = "1 empty directory is" if found.empty == 1 else f"{found.empty:,} empty directories are"
        warn(f"{were} left out: only files are kept, and the directories they are in.")
    if not found.found or (wanted.compressed and not found.files):
        raise CliError("Upload can not be empty")
    if not wanted.quiet:
        say(f"Total upload size: {human_size(found.size)}")
    try:
        begun = make_client().begin(wanted.name, compressed=wanted.compressed)
        return (_packed if wanted.compressed else _sent)(make_client, begun["id"], found, wanted)
    except KeyboardInterrupt:
        note(f"\nUpload aborted. To resume this upload, run: {wanted.again}")
        raise
    except UnreachableError as error:
        raise UnreachableError(error.message, hint=f"To resume this upload, run: {wanted.again}") from None


def _refuse_taken(client: UploadClient, wanted: Wanted) -> None:
    try:
        client.resources(wanted.path, recursive=False)
    except NotFoundError:
        return
    # Storage says what to do about it.
    client.begin(wanted.name, compressed=wanted.compressed)


def _sent(
    make_client: Callable[[], UploadClient], upload_id: int, found: Gathered, wanted: Wanted
) -> answers.Upload:
    with Counted(f"Uploading to {wanted.path}", found.size) as counted:
        sender = Sender(make_client, upload_id, counted.add)
        by_digest = sender.digests(found.files)
        counted.total = sum(local.size for local in by_digest.values())
        for last in (False,) * (_ROUNDS_MAX - 1) + (True,):
            missing = sender.missing(by_digest)
            size = sum(local.size for local in missing.values())
            make_client().begin(wanted.name, compressed=False, files=len(missing), size=size)
            sender.send_missing(missing)
            try:
                return make_client().complete(upload_id, sender.entries(found.found))
            except RefusedError as error:
                if error.code != "blob_missing" or last:
                    raise
                counted.begin_again()
    raise AssertionError("the last round ends it")


def _packed(
    make_client: Callable[[], UploadClient], upload_id: int, found: Gathered, wanted: Wanted
) -> answers.Upload:
    links = len(found.found) - len(found.files)
    if links:
        are = "1 link is" if links == 1 else f"{links} links are"
        warn(f"{are} left out: an archive cannot have any. Without --compress links are kept.")
    with Counted("Compressing", found.size) as counted:
        archive = pack(found.files, counted.add)
    with archive:
        size, digest = os.fstat(archive.fileno()).st_size, digest_of(archive)
        with Counted(f"Uploading to {wanted.path}", size) as counted:
            Sender(make_client, upload_id, counted.add).send_one(ARCHIVE, archive, size, digest)
    with Progress("Unpacking"):
        return make_client().complete(upload_id, None)


def _name(path: Path, given: str | None) -> str:
    """What an upload is called: a directory as it is; for a file somebody is asked."""
    if given is None:
        whole = path.resolve()
        given = whole.name
        if not whole.is_dir():
            default = whole.parent.name or None
            if not can_ask():
                raise click.UsageError(
                    f"Missing option '--name': what the upload with {safe_path(path.name)} is called.",
                    click.get_current_context(),
                )
            given = click.prompt("Enter a name for the upload.", default=default)
    with usage_errors():
        return resources.upload_name(given)
