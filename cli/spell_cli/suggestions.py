"""What a TAB offers, and what was probably meant: run ids, labels and machine types the server knows."""

import difflib
import os

from click.shell_completion import CompletionItem

from spell_cli import config
from spell_cli.bucket_client import BucketClient
from spell_cli.client import Client
from spell_cli.repository import output
from spell_cli.tables import safe

_PATIENCE_SECONDS = 0.0
_ANSWER_SECONDS = 0.8
_RUNS = 100


def suggest(what: str, incomplete: str) -> list[CompletionItem]:
    """Values that begin with `incomplete`. Nobody wants an error, or a stack that starts, from a TAB."""
    try:
        if what == "refs":
            return [CompletionItem(ref) for ref in _refs() if ref.startswith(incomplete)]
        server = config.load(os.environ).connect(start=False)
        client = Client(server, patience=_PATIENCE_SECONDS, answer_seconds=_ANSWER_SECONDS)
        found = _resources(client, incomplete) if what == "resources" else _values(client, what)
    except Exception:  # noqa: BLE001  # a completion that fails offers nothing
        return []
    return [CompletionItem(value, help=text) for value, text in found if value.startswith(incomplete)]


def _resources(client: Client, incomplete: str) -> list[tuple[str, str | None]]:
    """What is at the path that was typed as far as its last slash. A directory is gone into with the next TAB."""
    above, slash, _ = incomplete.rpartition("/")
    return [
        (
            f"{above}{slash}{entry['path']}"
            + ("/" if entry["size"] is None and entry["link"] is None else ""),
            f"leads to {safe(entry['link'])}" if entry["link"] is not None else None,
        )
        for entry in client.resources(above, recursive=False)["entries"]
        if safe(entry["path"]) == entry["path"]
    ]


def _values(client: Client, what: str) -> list[tuple[str, str | None]]:
    if what == "machine_types":
        types = client.machine_types()["machine_types"]
        return [(kind["name"], f"{kind['slots'] - kind['slots_used']} slots free") for kind in types]
    if what == "frameworks":
        return [
            (name, one["summary"])
            for one in client.frameworks()["frameworks"]
            for name in (one["name"], *one["aliases"])
        ]
    if what == "repositories":
        return [(name, None) for name in dict.fromkeys(known["name"] for known in client.repositories())]
    if what == "keys":
        return [(key["title"], key["fingerprint"]) for key in client.ssh_keys()]
    if what == "git_hosts":
        return [(host, None) for host in client.git_hosts()]
    if what == "git_credentials":
        return [(known["host"], known["username"]) for known in client.git_credentials()]
    if what == "registries":
        return [(known["registry"], known["username"]) for known in client.registries()["registries"]]
    if what == "links":
        return [(link["alias"], f"leads to {link['target']}") for link in client.links()]
    if what == "buckets":
        known_buckets = BucketClient(
            client.server, patience=_PATIENCE_SECONDS, answer_seconds=_ANSWER_SECONDS
        )
        return [(known["url"], known["username"]) for known in known_buckets.buckets()]
    if what in {"environments", "pythons"}:
        known_ones = client.environments()["environments"]
        if what == "pythons":
            return [(each, None) for each in dict.fromkeys(_version(one["python"]) for one in known_ones)]
        return [(one["key"], f"{one['python']}, {one['packages']} packages") for one in known_ones]
    runs = client.runs(_RUNS)
    if what == "labels":
        return [(label, None) for label in dict.fromkeys(label for run in runs for label in run["labels"])]
    return [(str(run["id"]), safe(f"{run['state']}: {run['spec']['command']}"[:60])) for run in runs]


def _version(python: str) -> str:
    return python.partition(" ")[2]


def _refs() -> list[str]:
    words = ("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    return ["HEAD", *output(".", *words).decode().split()]


def near_machine_type(client: Client, typed: str) -> str | None:
    """The type of machine somebody probably meant."""
    names = {kind["name"].lower(): kind["name"] for kind in client.machine_types()["machine_types"]}
    near = difflib.get_close_matches(typed.strip().lower(), names, n=1)
    return f"Did you mean {names[near[0]]}?" if near else None
