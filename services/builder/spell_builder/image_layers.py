"""Environments as images: which layer stands on which, the scripts that make them, and what an image tells of itself. Pure."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from spell_builder import apt, layers
from spell_builder.docker import TOOLS, WORK
from spell_builder.keys import Interpreter
from spell_builder.pythons import ABOUT
from spell_builder.resolver import Recipe
from spell_proto import images
from spell_proto.docker import MANAGED
from spell_proto.spec import canonical_json

REPOSITORY = "spell-environment"
#: Labels of an image: its key, the digest of the files that its build has made, and that of these with its configuration.
ENVIRONMENT, FILES, CONTENT = "com.spellrun.environment", "com.spellrun.files", "com.spellrun.content"
_PLACE = "/opt/spell"
VENV, CONDA = f"{_PLACE}/environment", f"{_PLACE}/conda"
PINNED, GIT, CONTENTS, APT_CONF, CA_BUNDLE = (
    "pinned.txt",
    "repositories.txt",
    "contents.py",
    "apt.conf",
    "ca.pem",
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UV = f"{TOOLS}/uv"


# ---- which stands on which --------------------------------------------------------------------------------------


def below(recipe: Recipe, foundation: Interpreter) -> Recipe | None:
    """The layer that a layer is made on; None where that is the base image. `foundation` is the Python of the base."""
    resolved = recipe.resolved
    base, system = layers.base_part(resolved), layers.apt_part(resolved)
    if layers.pip_part(resolved):
        conda = layers.without_pip(layers.without_apt(resolved)) if layers.is_conda(resolved) else ""
        return Recipe(recipe.interpreter, layers.with_apt(base, system, conda))
    if layers.is_conda(resolved):
        return Recipe(foundation, layers.with_apt(base, system, ""))
    if system:
        return Recipe(recipe.interpreter, layers.with_apt(base, (), ""))
    return None


def place(recipe: Recipe) -> str:
    """Where the Python of an environment is."""
    return CONDA if layers.is_conda(recipe.resolved) else VENV


# ---- scripts ----------------------------------------------------------------------------------------------------


def begin(environ: Mapping[str, str]) -> str:
    """What every script starts with. The variables stand in the script, because those of a container are kept."""
    told = {"LC_ALL": "C.UTF-8", "HOME": f"{WORK}/home", "TMPDIR": f"{WORK}/t", **environ}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in told.items())
    return f"set -e\numask 022\ncd /\nmkdir -p {WORK}/home {WORK}/t\n{exports}"


def probe(python: str) -> str:
    """Which packages an image lacks for being the base of environments, and whether it has apt."""
    return (
        f"echo {apt.SECTION}missing\n"
        f"python=$(command -v {python} || true)\n"
        f'if [ -z "$python" ]; then echo {python}; [ {python} != python3 ] || echo python3-pip\n'
        'elif ! "$python" -c "import ctypes, json, ssl, sysconfig, zlib" 2>/dev/null; then echo python3 python3-pip\n'
        'elif ! "$python" -m pip --version >/dev/null 2>&1; then echo python3-pip; fi\n'
        "command -v git >/dev/null || echo git\n"
        "test -s /etc/ssl/certs/ca-certificates.crt || echo ca-certificates\n"
        f"echo {apt.SECTION}apt\ncommand -v apt-get || true\n"
        f"echo {apt.SECTION}there\n"
        "for each in $(ls /usr/bin/python3.* /usr/local/bin/python3.* 2>/dev/null); do\n"
        'case "$each" in *config) ;; *) "$each" -c "import platform; print(platform.python_version())" || true;; esac\n'
        "done\n"
    )


def foundation(python: str) -> str:
    """Python and pip where runs find them, and what that Python is."""
    return (
        f"python=$(command -v {shlex.quote(python)})\n"
        f'{_UV} venv --quiet --no-project --no-config --system-site-packages --python "$python" {VENV} >&2\n'
        # What pip installs for itself is not exact; the one of the system does as well.
        f"printf '#!/bin/sh\\nexec {VENV}/bin/python -m pip \"$@\"\\n' > {VENV}/bin/pip\n"
        f"chmod 755 {VENV}/bin/pip\ncp {VENV}/bin/pip {VENV}/bin/pip3\n"
        f"echo {apt.SECTION}interpreter\n{VENV}/bin/python -I -c {shlex.quote(ABOUT)}\n"
    )


def with_pip(recipe: Recipe, words: Sequence[str], *, hashed: bool, git: bool, built: bool = True) -> str:
    """What `words`, the arguments of uv, install: packages with hashes, and some from repositories. Unless they may be
    `built`, nothing of what a package brings is run.
    """
    install = f"{_UV} --no-config {shlex.join(words)}{'' if built else ' --no-build'}"
    lines = [f"{install} --require-hashes -r {WORK}/{PINNED} >&2\n"] if hashed else []
    lines += [f"{install} -r {WORK}/{GIT} >&2\n"] if git else []
    return "".join([*lines, compiled(place(recipe))])


def compiled(where: str) -> str:
    """Byte code now: no run could keep what it compiles. Files for other versions do not compile, and that is fine."""
    tests = shlex.quote(r"[/\\]tests?[/\\]")
    # -S: what a package wants to be run whenever Python starts is not.
    return f"{where}/bin/python -I -S -m compileall -qq -j 0 -x {tests} {where}/lib >&2 || true\n"


def content(recipe: Recipe) -> str:
    """What a build has made, for a digest: system packages as dpkg knows them, or each file below Python's place."""
    if layers.without_apt(recipe.resolved):
        where = place(recipe)
        code = (
            f"import sys; sys.path.insert(0, {WORK!r}); import contents; "
            f"print(contents.digest(contents.contents({where!r})))"
        )
        return f"echo {apt.SECTION}content\n{where}/bin/python -I -S -c {shlex.quote(code)} || true\n"
    return (
        f"echo {apt.SECTION}content\n"
        "dpkg-query -W -f='${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\\n' 2>/dev/null | sort || true\n"
        "cat /var/lib/dpkg/info/*.md5sums 2>/dev/null | sort | sha256sum || true\n"
    )


# ---- images -----------------------------------------------------------------------------------------------------


def name(key: str) -> str:
    """What the image of an environment is called."""
    return f"{REPOSITORY}:{key}"


def pinned(asked: str, inspected: Mapping[str, Any]) -> str:
    """What names an image for good: its digest in its registry, or its id where it has none."""
    wanted = images.parse(asked) if not asked.startswith("sha256:") else None
    for digest in inspected.get("RepoDigests") or ():
        known = images.parse(digest)
        if wanted is not None and (known.registry, known.path) == (wanted.registry, wanted.path):
            return str(known)
    return str(inspected["Id"])


def config(inspected: Mapping[str, Any], recipe: Recipe, made: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of the image that is made on another one: what its build had set is as it was before."""
    before = inspected["Config"]
    environ = dict(entry.partition("=")[::2] for entry in before.get("Env") or ())
    path = [part for part in environ.get("PATH", _PATH).split(":") if not part.startswith(_PLACE)]
    # Some packages of Debian have their programs where its users find them, and its root does not.
    here = {"PATH": ":".join(dict.fromkeys([f"{place(recipe)}/bin", *path, "/usr/games"]))}
    if place(recipe) == CONDA:
        # An environment of conda packages is called `spell`, whatever its file says.
        here |= {"CONDA_PREFIX": CONDA, "CONDA_DEFAULT_ENV": "spell"}
    return {
        "Env": [f"{variable}={value}" for variable, value in {**environ, **here}.items()],
        "Cmd": before.get("Cmd") or ["/bin/sh"],
        **({"Entrypoint": before["Entrypoint"]} if before.get("Entrypoint") else {}),
        **({"User": before["User"]} if before.get("User") else {}),
        **({"WorkingDir": before["WorkingDir"]} if before.get("WorkingDir") else {}),
        "Labels": {**(before.get("Labels") or {}), MANAGED: "environment", **made},
    }


def content_of(files: str, config: Mapping[str, Any]) -> str:
    """The digest of what an image is, of that of its files: runs notice how it is configured as well."""
    user = str(config.get("User") or "")
    noticed = {
        "files": files,
        "env": sorted(config.get("Env") or ()),
        "cmd": config.get("Cmd") or [],
        "entrypoint": config.get("Entrypoint") or [],
        "user": "" if user in {"0", "root", "0:0"} else user,
        "directory": config.get("WorkingDir") or "",
    }
    return hashlib.sha256(canonical_json(noticed)).hexdigest()


def told(inspected: Mapping[str, Any], key: str) -> str | None:
    """The digest of what an image is, as it says itself; None where it is not of that key, or was configured anew."""
    config = inspected["Config"]
    labels = config.get("Labels") or {}
    content: str | None = labels.get(CONTENT)
    if labels.get(ENVIRONMENT) != key or content != content_of(labels.get(FILES, ""), config):
        return None
    return content
