"""How runs are listed and described: rows of `spell ps`, lines of `spell info`. Pure."""

import importlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from spell_cli.answers import MachineType, Mount, Run, RunPlan, Snapshot
from spell_cli.times import go_duration, human_size, local_time, moment, relative
from spell_proto.checks import github_directory
from spell_proto.state import ACTIVE, FINAL, REASON_TEXT, Intent, Reason, RunState

_COMMAND_CHARS = 25
_DESCRIPTION_CHARS = 50
_COMMIT_CHARS = 8
_KEY_CHARS = 12
_LINES_SHOWN = 20
_REF_CHARS = 20
_CHANGES = " + uncommitted changes"
#: A run that failed before its command ran says in which phase.
_FAILED_EARLY: dict[str, str] = {Reason.BUILD_FAILED: "Build Failed", Reason.MOUNT_FAILED: "Mount Failed"}
QUEUE_REASON = {
    "owner_limit": "your limit of concurrent runs is reached",
    "no_machine": "no machine of this type is registered",
    "no_engine": "no machine of this type can run it right now, as Docker does not answer",
    "no_slot": "all machines of this type are busy",
}


def status_text(run: Run) -> str:
    """The STATUS column: `*Running`, `Complete (66)`; active states carry a star.

    A run that only its owner's limit holds back is Requested; one that waits for a machine is Queued.
    """
    state = RunState(run["state"])
    code = f" ({run['exit_code']})" if run["exit_code"] is not None else ""
    if state is RunState.REQUESTED:
        return "Requested" if run["queue_reason"] == "owner_limit" else "Queued"
    if state not in ACTIVE:
        return _FAILED_EARLY.get(run["reason"] or "", state.title() + code)
    doing = {Intent.STOP: "Stopping", Intent.KILL: "Killing"}.get(Intent(run["intent"]), state.title())
    return f"*{doing}{code}"


def ps_table(
    runs: Sequence[Run], *, verbose: bool, trunc: bool, now: datetime
) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, in the order of `runs`."""
    if not verbose:
        headers = ["ID", "REPOSITORY", "COMMAND", "STATUS", "CREATOR"]
        return headers, [
            [str(run["id"]), _repository(run), _command(run, trunc), status_text(run), run["creator"]]
            for run in runs
        ]
    labelled = any(run["labels"] for run in runs)
    headers = ["ID", "REPOSITORY", "COMMAND", "COMMIT", "STATUS", "CREATOR"]
    headers += ["LABELS"] * labelled + ["MACHINE", "DESCRIPTION"]
    rows = []
    for run in runs:
        row = [str(run["id"]), _repository(run), _command(run, trunc)]
        row += [_commit(run), status_text(run) + _since(run, now)]
        row += [run["creator"], *([", ".join(run["labels"])] if labelled else [])]
        row += [run["spec"]["machine_type"], _description(run, trunc)]
        rows.append(row)
    return headers, rows


def info_rows(run: Run, now: datetime) -> list[tuple[str, str]]:
    """Name and value, each only where there is one."""
    spec, code = run["spec"], run["spec"]["code"]
    state, every = RunState(run["state"]), spec.get("save_every_seconds")
    exit_code = f" ({run['exit_code']})" if run["exit_code"] is not None else ""
    rows = [
        ("Repository", _repository(run)),
        ("GitHub URL", _url(run)),
        ("Git Commit", code["commit"] + _CHANGES * (code["snapshot"] is not None) if code else ""),
        ("Status", f"{state}{exit_code}"),
        ("Waiting For", QUEUE_REASON.get(run["queue_reason"] or "", "")),
        ("Reason", _why(run)),
        ("Command", spec["command"]),
        ("Directory", f"{code['root_directory']}/{code['cwd']}" if code and code["cwd"] != "." else ""),
        ("Description", run["spec"]["description"]),
        ("Creator", run["creator"]),
        ("Machine Type", spec["machine_type"]),
        ("Docker Image", (spec.get("docker_image") or "").partition("@")[0]),
        ("Machine", _machine(run)),
        ("Engine", run.get("engine") or ""),
        ("GPUs", ", ".join(run.get("gpus") or [])),
        ("Request Time", local_time(run["created_at"])),
        ("Start Time", local_time(run["started_at"]) if run["started_at"] else ""),
        ("End Time", local_time(run["ended_at"]) if run["ended_at"] else ""),
        ("Archived", local_time(archived) if (archived := run.get("archived_at")) else ""),
        ("Duration", _duration(run, now)),
        ("Time Limit", go_duration(spec["timeout_seconds"]) if spec["timeout_seconds"] else ""),
        ("Labels", ", ".join(run["labels"])),
        ("Environment Vars", ", ".join(spec["env"])),
        ("Framework", spec["environment"].get("framework") or spec.get("framework") or ""),
        ("Python Version", spec["environment"].get("python") or ""),
        ("Requirements File", _requirements(spec["environment"].get("requirements") or "")),
        ("Pip Packages", ", ".join(spec["environment"]["pip"])),
        ("Apt Packages", ", ".join(spec["environment"].get("apt") or ())),
        ("Conda Env File", _conda(spec["environment"].get("conda"))),
        ("Environment", (spec["environment"]["key"] or "")[:_KEY_CHARS]),
        ("Mounts", _mounts(spec.get("mounts") or [])),
        ("Not Saved", "\n".join(spec.get("no_save") or ())),
        ("Saved Every", go_duration(every) if every else ""),
        ("Snapshots", _snapshots(run)),
        ("Snapshot Failed", run.get("save_problem") or ""),
        ("Saved Files", _saved(run)),
    ]
    return [(name, value) for name, value in rows if value]


def _requirements(text: str) -> str:
    """The lines of a requirements file, without hashes and where they came from."""
    lines = [line.partition(" --hash=")[0].partition(" # ")[0] for line in text.splitlines()]
    return _shortened([line.strip() for line in lines if line.strip() and not line.startswith(("#", " "))])


def _conda(text: str | None) -> str:
    """The packages of a conda file."""
    if text is None:
        return ""
    found = importlib.import_module("spell_proto.conda").parse_text(text)
    named = [package.canonical() for package in found.packages]
    named += [f"{package.name} {package.version} {package.build}" for package in found.exact]
    return _shortened([*named, *(f"{entry.requirement} (pip)" for entry in found.pip.entries)])


def _shortened(lines: list[str]) -> str:
    more = len(lines) - _LINES_SHOWN
    return "\n".join(lines[:_LINES_SHOWN] + ([f"… and {more} more"] if more > 0 else []))


def plan_rows(body: dict[str, Any], plan: RunPlan, *, changes: bool) -> list[tuple[str, str]]:
    """What a run would be, in the order of what happens. `changes`: uncommitted ones would go with it."""
    environment, machine, code = plan["environment"], plan["machine"], body.get("code")
    key = (environment["key"] or "")[:_KEY_CHARS]
    became = {
        "ready": f"{key}, reused: nothing is built",
        "known": f"{key}, built: its versions are known, its files are not there any more",
    }.get(environment["state"], "resolved and built")
    rows = [("Command", body["command"]), ("Machine Type", _place(machine))]
    if code is not None:
        there = "is there already" if plan["code_known"] else "would be pushed"
        rows.append(("Git Commit", f"{code['commit']}, {there}"))
        rows += [("Uncommitted Changes", "go with it")] * changes
    framework = environment.get("framework")
    rows += [("Framework", "\n".join([framework, *environment["notes"]]))] if framework else []
    rows.append(("Mounts", _mounts(plan.get("mounts") or [])))
    image = body.get("docker_image") or environment.get("image")
    if image is not None:
        return [(name, value) for name, value in (*rows, ("Docker Image", image)) if value]
    rows += [("Python", environment["python"]), ("Environment", became)]
    rows.append(("Packages", "\n".join(environment["packages"])))
    return [(name, value) for name, value in rows if value]


def _place(machine: MachineType) -> str:
    """A type of machine and what a run gets there."""
    if not machine["machines"]:
        return f"{machine['name']}: no machine of this type answers right now"
    free = machine["slots"] - machine["slots_used"]
    has = [f"{free} of {machine['slots']} slots free", *engines_and_gpus(machine)]
    return f"{machine['name']}: {', '.join(part for part in has if part)}"


def engines_and_gpus(machine: MachineType) -> tuple[str, str]:
    """With what runs are run on a type of machine, and the GPUs that each gets. Older servers say neither."""
    gpus, models = machine.get("gpus", 0), machine.get("gpu_models", [])
    return " ".join(machine.get("engines", [])), f"{gpus} x {' or '.join(models) or 'GPU'}" if gpus else ""


def machine_table(kinds: Sequence[MachineType], default: str) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of `spell machine-types`."""
    rows = []
    for kind in kinds:
        engines, gpus = engines_and_gpus(kind)
        free = f"{kind['slots'] - kind['slots_used']} of {kind['slots']}" if kind["machines"] else ""
        name = kind["name"] + (" (default)" if kind["name"] == default else "")
        rows.append([name, str(kind["machines"]), free, engines, gpus])
    return ["TYPE", "MACHINES", "FREE SLOTS", "ENGINES", "GPUS PER RUN"], rows


def _mounts(mounts: Sequence[Mount]) -> str:
    return "\n".join(f"{mount['resource']} at {mount['target']}" for mount in mounts)


def _repository(run: Run) -> str:
    code, github = run["spec"]["code"], run["spec"]["github"]
    if code is not None:
        return code["repository"]
    return github_directory(github["url"]) if github is not None else ""


def _commit(run: Run) -> str:
    """The commit, marked where there were changes on top of it; what was asked for where it is not known yet."""
    code, github = run["spec"]["code"], run["spec"]["github"]
    if code is not None:
        return code["commit"][:_COMMIT_CHARS] + "+" * (code["snapshot"] is not None)
    return (github["ref"] or "")[:_REF_CHARS] if github is not None else ""


def _url(run: Run) -> str:
    github = run["spec"]["github"]
    if github is None:
        return ""
    return github["url"] + (f" at {github['ref']}" if github["ref"] is not None else "")


def _command(run: Run, trunc: bool) -> str:
    return _cut(run["spec"]["command"], _COMMAND_CHARS, trunc)


def _description(run: Run, trunc: bool) -> str:
    first = run["spec"]["description"].partition("\n")[0]
    return _cut(first, _DESCRIPTION_CHARS, trunc)


def _cut(text: str, most: int, trunc: bool) -> str:
    return text[:most] + "…" if trunc and len(text) > most else text


def _since(run: Run, now: datetime) -> str:
    if run["ended_at"]:
        return f" -- {relative(run['ended_at'], now)}"
    if run["state"] == RunState.RUNNING and run["started_at"]:
        return f" [{go_duration(int((now - moment(run['started_at'])).total_seconds()))}]"
    return ""


def _why(run: Run) -> str:
    reason = REASON_TEXT[Reason(run["reason"])] if run["reason"] else ""
    if run["message"] and run["message"] != reason:
        return f"{reason}: {run['message']}" if reason else run["message"]
    return reason


def _machine(run: Run) -> str:
    if run["machine_id"] is None:
        return ""
    silent = run["state"] not in FINAL and not run["machine_reachable"]
    return run["machine_id"] + (" (does not answer right now)" if silent else "")


def _duration(run: Run, now: datetime) -> str:
    if run["run_seconds"] is not None:
        return go_duration(run["run_seconds"])
    if run["started_at"] and not run["ended_at"]:
        return go_duration(int((now - moment(run["started_at"])).total_seconds()))
    return ""


def _snapshots(run: Run) -> str:
    """The snapshots of a run, the newest first: none that were archived with it."""
    if run.get("archived_at"):
        return ""
    lines: list[str] = []
    for one in reversed(run.get("snapshots") or []):
        lines += [snapshot_text(run["id"], one), *(f"  {note}" for note in one.get("notes") or ())]
    return _shortened(lines)


def snapshot_text(run_id: int, snapshot: Snapshot) -> str:
    """A snapshot in a line."""
    files = f"{snapshot['files']} file{'s' if snapshot['files'] != 1 else ''}"
    size, at = _size(snapshot["bytes"]), local_time(snapshot["at"])
    return f"runs/{run_id}@{snapshot['number']}: {files}, {size}, {at}"


def _saved(run: Run) -> str:
    """What was kept when the command had ended, and what is to be known of it."""
    notes = [f"  {note}" for note in run.get("save_notes") or ()]
    if not run["saved_files"] and not run.get("manifest"):
        return "\n".join(["none", *notes] if notes else [])
    files = f"{run['saved_files']} file{'s' if run['saved_files'] != 1 else ''}"
    changed = f"; {count} changed while saved" if (count := run.get("saved_changed")) else ""
    where = "" if run.get("archived_at") else f", as runs/{run['id']}"
    return "\n".join([f"{files}, {_size(run['saved_bytes'] or 0)}{where}{changed}", *notes])


def _size(size: int) -> str:
    """A size that stands between other words."""
    return human_size(size) if size >= 1024 else f"{size} byte{'s' * (size != 1)}"
