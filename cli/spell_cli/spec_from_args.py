"""From what was typed and what git says to the body of `POST /api/runs`. Pure.

Fields are checked here first, so that a typing error is answered before anything is started or pushed; the server
checks them again.
"""

import importlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spell_cli.repository import Repository, Snapshot
from spell_proto import apt, checks, frameworks, images, saves
from spell_proto.errors import InvalidError, shown

_CREDENTIALS = re.compile(r"://[^/\s]*@")


class RunArguments(NamedTuple):
    """The options and words of `spell run`."""

    words: tuple[str, ...]
    pip: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    machine_type: str | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    timeout: str | None = None
    commit_ref: str | None = None
    github_url: str | None = None
    github_ref: str | None = None
    pip_req: "Requirements | None" = None
    python: str | None = None
    latest: bool = False
    docker_image: str | None = None
    conda_file: "CondaText | None" = None
    framework: str | None = None
    apt: tuple[str, ...] = ()
    no_save: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    save_every: str | None = None


class CondaText(NamedTuple):
    """What `--conda-file` read, and what to warn of."""

    text: str
    warnings: tuple[str, ...]


class Requirements(NamedTuple):
    """What `--pip-req` read: the text of the packages to install, of versions to choose from, and what to warn of."""

    requirements: str
    constraints: str | None
    warnings: tuple[str, ...]


class Checked(NamedTuple):
    """The part of a request that depends on the command line alone, and what to warn of."""

    body: dict[str, Any]
    warnings: tuple[str, ...]


def check(arguments: RunArguments) -> Checked:
    """The request without its local code.

    Raises:
        InvalidError: an option or the command is wrong.
    """
    variables, warnings = environment(arguments.env)
    body: dict[str, Any] = {"command": checks.command(command_line(arguments.words))}
    if arguments.machine_type is not None:
        body["machine_type"] = arguments.machine_type
    checks.one_foundation(
        framework=arguments.framework is not None,
        image=arguments.docker_image is not None,
        conda=arguments.conda_file is not None,
    )
    asked, more_warnings = asked_environment(arguments)
    if arguments.docker_image is not None:
        checks.image_alone(
            packages=bool(arguments.apt or arguments.pip) or arguments.pip_req is not None,
            python=arguments.python is not None,
            latest=arguments.latest,
        )
        body["docker_image"] = images.whole(arguments.docker_image)
    if asked:
        body["environment"] = asked
    if variables:
        body["env"] = variables
    if arguments.description is not None:
        body["description"] = checks.description(arguments.description)
    if arguments.labels:
        body["labels"] = checks.labels(arguments.labels)
    if arguments.timeout is not None:
        body["timeout_seconds"] = checks.timeout_seconds(arguments.timeout)
    if arguments.mounts:
        body["mounts"] = mounts(arguments.mounts)
    if arguments.save_every is not None:
        body["save_every_seconds"] = saves.every_typed(arguments.save_every)
    if arguments.no_save:
        body["no_save"] = saves.patterns(arguments.no_save)
    source = github(arguments.github_url, arguments.github_ref, arguments.commit_ref)
    if source is not None:
        body["github"] = source
    return Checked(body, (*warnings, *more_warnings))


def asked_environment(arguments: RunArguments) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The environment that was asked for, and what to warn of."""
    asked: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    if arguments.pip:
        asked["pip"] = packages(arguments.pip)
    if arguments.pip_req is not None:
        found = arguments.pip_req
        asked["requirements"], warnings = found.requirements, found.warnings
        if found.constraints is not None:
            asked["constraints"] = found.constraints
    if arguments.conda_file is not None:
        checks.conda_alone(
            packages=bool(arguments.pip or arguments.pip_req), python=arguments.python is not None
        )
        asked["conda"], warnings = arguments.conda_file
    if arguments.python is not None:
        asked["python"] = checks.python_version(arguments.python)
    if arguments.apt:
        asked["apt"] = list(apt.packages(arguments.apt))
    if arguments.framework is not None:
        asked["framework"] = frameworks.framework(arguments.framework)
    if arguments.latest:
        asked["latest"] = True
    return asked, warnings


def github(url: str | None, ref: str | None, commit_ref: str | None) -> dict[str, str] | None:
    """Where the server fetches the code from, instead of what lies here."""
    if url is None:
        if ref is not None:
            raise InvalidError(
                "flag_needs",
                "--github-ref: it needs --github-url, the repository to look in; for a commit of the one you stand "
                "in there is --commit-ref",
                field="github.ref",
            )
        return None
    if commit_ref is not None:
        raise InvalidError(
            "flags_conflict",
            "--commit-ref and --github-url exclude each other: the first names a commit of the repository you stand "
            "in. Use --github-ref",
            field="github.url",
        )
    source = {"url": checks.github_url(url)}
    return source if ref is None else source | {"ref": checks.git_ref(ref)}


def with_code(body: dict[str, Any], repository: Repository, snapshot: Snapshot | None) -> dict[str, Any]:
    """The request with the commit; its message describes the run where nothing else does."""
    code = {
        "commit": checks.commit(repository.commit),
        **({"snapshot": snapshot.commit} if snapshot is not None else {}),
        "root_directory": checks.root_directory(repository.name),
        "cwd": checks.cwd(repository.cwd),
    }
    message = repository.message[: checks.DESCRIPTION_CHARS_MAX]
    return {"description": checks.description(message), **body, "code": code}


def mounts(given: Sequence[str]) -> list[dict[str, str]]:
    """What `--mount` named."""
    found = [_mount_paths().split(text) for text in given]
    return [
        {"resource": resource} | ({} if target is None else {"target": target}) for resource, target in found
    ]


def check_targets(body: dict[str, Any]) -> None:
    """See that mounts have places in the run, which depend on where its command starts."""
    if not body.get("mounts"):
        return
    mount_paths = _mount_paths()
    code, source = body.get("code"), body.get("github")
    if code is not None:
        cwd = mount_paths.working_directory(code["root_directory"], code["cwd"])
    elif source is not None:
        cwd = mount_paths.working_directory(checks.github_directory(source["url"]))
    else:
        cwd = mount_paths.working_directory(None)
    mount_paths.placed([(mount["resource"], mount.get("target")) for mount in body["mounts"]], cwd)


def _mount_paths() -> Any:
    """The rules of mounts: most runs have none."""
    return importlib.import_module("spell_proto.mount_paths")


def command_line(words: Sequence[str]) -> str:
    """One word is a line for the shell as it stands; several are one program and its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)


def environment(pairs: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """`NAME=VALUE` pairs, split at the first `=`; of a name given twice the last value counts."""
    variables: dict[str, str] = {}
    twice: list[str] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidError(
                "env_name_invalid", f"--env: {shown(pair)} has no '=': NAME=VALUE is expected", field="env"
            )
        if name in variables:
            twice.append(name)
        variables[name] = value
    checked = checks.env(variables)
    return checked, tuple(
        f"--env: {name} is given twice; the last value counts" for name in dict.fromkeys(twice)
    )


def packages(specs: Sequence[str]) -> list[str]:
    """The packages of `--pip`; whether each is a valid requirement is for the server to say."""
    if len(specs) > checks.PIP_COUNT_MAX:
        raise InvalidError(
            "too_many_packages", f"--pip: {len(specs)} packages, at most 500 are allowed", field="pip"
        )
    for spec in specs:
        if len(spec) > checks.PIP_SPEC_CHARS_MAX:
            raise InvalidError(
                "pip_spec_too_long", f"--pip: {shown(spec, 40)} is above 1,000 characters", field="pip"
            )
        if not spec.strip() or spec.lstrip().startswith("-"):
            raise InvalidError(
                "pip_spec_invalid",
                f"--pip: {shown(spec)} is not a package with versions, as in 'numpy>=1.26'",
                field="pip",
            )
    return list(specs)


class OptionNames(NamedTuple):
    """The spellings of a command's options: those that take a value, and those that do not."""

    with_value: Mapping[str, str]  # and what its value is called
    flags: frozenset[str]


def misplaced(words: Sequence[str], options: OptionNames) -> tuple[list[str], list[str]] | None:
    """Options of ours behind a command given as one quoted string: (the options, the other words), else None.

    `spell run "python x.py" -t V100` can only be a slip: no program has a name with a space in it, and -t is ours.
    """
    if len(words) < 2 or not any(character.isspace() for character in words[0].strip()):
        return None
    moved: list[str] = []
    rest = [words[0]]
    tail = list(words[1:])
    while tail:
        word = tail.pop(0)
        if word == "--":
            rest += [word, *tail]
            break
        ours = _as_options(word, options)
        moved += ours
        if not ours:
            rest.append(word)
        elif ours[-1] in options.with_value:
            moved.append(tail.pop(0) if tail else options.with_value[ours[-1]])
    return (moved, rest) if moved else None


def _as_options(word: str, options: OptionNames) -> list[str]:
    """The options of ours that a word is: one, or a cluster as in `-bf` or `-btV100`; none if any is not ours."""
    name = word.partition("=")[0]
    if word.startswith("--"):
        known = word in options.flags or name in options.with_value
        return [word] if known else []
    if not word.startswith("-"):
        return []
    found: list[str] = []
    for place, letter in enumerate(word[1:], start=2):
        option = f"-{letter}"
        found.append(option)
        if option in options.with_value:
            value = word[place:].removeprefix("=")
            return [*found, value] if value else found
        if option not in options.flags:
            return []
    return found


def typed(word: str) -> str:
    """A word as a person would type it in a shell: double quotes where they are enough, no password in a URL."""
    word = _CREDENTIALS.sub("://…@", word)
    quoted = shlex.quote(word)
    if quoted == word or any(character in word for character in '"$`\\!'):
        return quoted
    return f'"{word}"'
