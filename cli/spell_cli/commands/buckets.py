"""`spell cluster …-bucket`: which private buckets can be listed, copied and mounted. For administrators."""

import json
import os
from typing import Any

import click

from spell_cli import config, passwords
from spell_cli.args import Known, SpellCommand, json_option, usage_errors
from spell_cli.bucket_client import BucketClient
from spell_cli.tables import table
from spell_cli.terminal import say
from spell_cli.times import local_time
from spell_proto import resources
from spell_proto.errors import shown
from spell_proto.resources import InBucket

_SECRET_CHARS_MAX = 256


@click.command(
    "add-bucket",
    cls=SpellCommand,
    examples=(
        "spell cluster add-bucket s3://team-data --access-key-id AKIAIOSFODNN7EXAMPLE",
        "spell cluster add-bucket s3://team-data --access-key-id AKIAIOSFODNN7EXAMPLE --secret-stdin < secret",
        "spell cluster add-bucket gs://team-data --secret-stdin < key.json",
    ),
)
@click.option(
    "--access-key-id",
    metavar="ID",
    help="The id of an access key, for s3.  [default: the role of the cluster]",
)
@click.option(
    "--secret-stdin",
    is_flag=True,
    help="Read the secret from stdin instead of asking for it. For gs: the JSON key of a service account.",
)
@json_option
@click.argument("bucket", metavar="BUCKET")
def add_bucket(access_key_id: str | None, secret_stdin: bool, as_json: bool, bucket: str) -> None:
    """Let everybody list, copy and mount what is in a private bucket: s3://NAME or gs://NAME.

    What it is read with is tried at once, stored encrypted in place of what is stored already, and never shown again. Use
    keys that can only list and read. Without a key, a bucket of s3 is read as the IAM role of the cluster. Public buckets need
    none of this.
    """
    at = _whole(bucket)
    given = (
        _google(access_key_id, secret_stdin)
        if at.scheme == "gs"
        else _amazon(at, access_key_id, secret_stdin)
    )
    stored = _client().put_bucket(at.scheme, at.bucket, given)
    if as_json:
        say(json.dumps(stored, ensure_ascii=True, indent=2))
        return
    with_what = "as" if stored["kind"] == "aws_role" else "with the key of"
    say(f"Successfully added {stored['url']}, read {with_what} {stored['username']}.")


@click.command(
    "list-buckets",
    cls=SpellCommand,
    examples=("spell cluster list-buckets", "spell cluster list-buckets --json"),
)
@json_option
def list_buckets(as_json: bool) -> None:
    """List the private buckets that were added."""
    found = _client().buckets()
    if as_json:
        say(json.dumps(found, ensure_ascii=True, indent=2))
    elif not found:
        say("There are no buckets added.")
    else:
        rows = [[known["url"], known["username"], local_time(known["created_at"])] for known in found]
        say("\n".join(table(["BUCKET", "READ AS", "ADDED"], rows)))


@click.command("remove-bucket", cls=SpellCommand, examples=("spell cluster remove-bucket s3://team-data",))
@json_option
@click.argument("bucket", type=Known("bucket", "buckets"), metavar="BUCKET")
def remove_bucket(as_json: bool, bucket: str) -> None:
    """Forget what a private bucket is read with. Runs can go on using what they have mounted of it."""
    at = _whole(bucket)
    _client().remove_bucket(at.scheme, at.bucket)
    if as_json:
        say(json.dumps({"removed": [at.url]}, ensure_ascii=True, indent=2))
    else:
        say(f"Access to {at.url} has been removed.")


def _client() -> BucketClient:
    return BucketClient(config.load(os.environ).connect())


def _whole(text: str) -> InBucket:
    with usage_errors():
        found = resources.parse(text, field="bucket", code="bucket_invalid")
    if not isinstance(found, InBucket) or found.key:
        raise _wrong(f"bucket: {shown(text)} is no bucket, as s3://team-data and gs://team-data are")
    return found


def _amazon(at: InBucket, key_id: str | None, secret_stdin: bool) -> dict[str, Any]:
    if key_id is None:
        if secret_stdin:
            raise _wrong("Missing option '--access-key-id': whose secret is it?")
        return {}
    prompt = f"Secret access key of {key_id} for {at.url}: "
    secret = (
        passwords.from_stdin(_SECRET_CHARS_MAX, "secret")
        if secret_stdin
        else passwords.asked(prompt, _SECRET_CHARS_MAX, "secret")
    )
    return {"access_key_id": key_id, "secret_access_key": secret}


def _google(key_id: str | None, secret_stdin: bool) -> dict[str, Any]:
    if key_id is not None:
        raise _wrong(
            "--access-key-id is for s3; buckets of Google's are read with the key of a service account."
        )
    if not secret_stdin:
        raise _wrong("Buckets of Google's take the JSON key of a service account: --secret-stdin < key.json")
    return {"service_account_key": passwords.key_from_stdin("secret")}


def _wrong(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())
