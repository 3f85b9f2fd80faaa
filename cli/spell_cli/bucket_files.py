"""What is in a bucket, as `spell ls` and `spell cp` show and fetch files."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from spell_cli import answers
from spell_cli.answers import BucketObject, Entry
from spell_cli.bucket_client import BucketClient
from spell_cli.client import Client
from spell_cli.errors import CliError
from spell_cli.progress import Progress
from spell_cli.terminal import safe_path, warn
from spell_proto import resources
from spell_proto.errors import NotFoundError
from spell_proto.resources import InBucket, Linked, Resource


class Objects(NamedTuple):
    """Files to be fetched: where they are, relative to `base`, and who fetches them as they were listed."""

    base: str
    entries: list[Entry]
    make_client: Callable[[], Client]


def url_of(client: Client, resource: Resource) -> str | None:
    """The URL of what a path names in a bucket, also through a link; None where it names something else."""
    if isinstance(resource, InBucket):
        return resource.url
    if not isinstance(resource, Linked):
        return None
    try:
        target = client.link(resource.alias)["target"]
    except NotFoundError:
        return None
    if not target.startswith(tuple(f"{scheme}://" for scheme in resources.SCHEMES)):
        return None
    return f"{target}/{resource.path}".rstrip("/")


def level(client: Client, url: str) -> list[Entry]:
    """What is at a URL, one level of it."""
    base, found = _listed(client, url, recursive=False)
    return sorted((_entry(base, each) for each in found), key=lambda entry: entry["path"])


def below(client: Client, url: str) -> Objects:
    """Every object at a URL."""
    base, found = _listed(client, url, recursive=True)
    etags = {f"{_root(url)}/{each['key']}": each["etag"] for each in found if each["etag"] is not None}
    if not found:
        raise CliError(f"There is nothing in {url}.")
    hidden = clashing(each["key"] for each in found)
    for key in sorted(hidden):
        warn(f"File '{safe_path(key)}' ignored: there is a directory of that name.")
    found = [each for each in found if each["key"] not in hidden]

    def make_client() -> Client:
        made = BucketClient(client.server)
        made.etags = etags
        return made

    return Objects(base, [_entry(base, each) for each in found], make_client)


def _listed(client: Client, url: str, *, recursive: bool) -> tuple[str, list[BucketObject]]:
    """The objects, and the URL of the directory that their names are relative to."""
    asking = BucketClient(client.server)
    with Progress(f"Listing {url}") as progress:
        found = asking.objects(
            url, recursive=recursive, on_count=lambda count: progress.update(f"{count:,} objects")
        )
    asking.close()
    return base_of(url, found), found


def base_of(url: str, found: Sequence[answers.BucketObject]) -> str:
    """The URL itself, or that of the directory of an object that is listed alone. Pure."""
    root, key = _root(url), url[len(_root(url)) + 1 :]
    alone = len(found) == 1 and found[0]["size"] is not None and found[0]["key"] == key
    return f"{root}/{key.rpartition('/')[0]}".rstrip("/") if alone else url


def clashing(keys: Iterable[str]) -> set[str]:
    """Keys that name a file where others need a directory: a bucket lets both be. Pure."""
    found = set(keys)
    directories = {key[:at] for key in found for at, character in enumerate(key) if character == "/"}
    return found & directories


def _entry(base: str, found: BucketObject) -> Entry:
    prefix = base[len(_root(base)) + 1 :]
    return Entry(
        path=found["key"].removeprefix(f"{prefix}/" if prefix else ""),
        size=found["size"],
        modified_at=found["modified_at"],
        sha256=None,
        mode=None,
        link=None,
        changed=False,
    )


def _root(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])
