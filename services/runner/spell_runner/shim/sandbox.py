# ruff: noqa: PTH102, PTH103, PTH112, PTH115, PTH118, PTH120, PTH211 -- this runs in the few milliseconds of a start, where plain system calls are the point
"""What a command sees of its machine: the host's tree with a workspace at /spell, its own /tmp, and no platform (shell).

Standard library only: this is loaded once by the fork server and then only forked.
"""

import os
import signal
from contextlib import suppress

from spell_runner.shim import linux, system
from spell_runner.shim.launch import MOUNTS, TEMPORARY, UPPER, WORK, WORKSPACE, Launch, Layer

#: Where the workspace of a run stands in its namespace.
SPELL = "/spell"
_TMP = "/tmp"  # noqa: S108 -- the name of the command's own
# These are not the host's in a sandbox.
_OWN = frozenset({"proc", "tmp", "spell"})
#: What is written beside the entries of a directory that is put together anew goes with the run.
_ANEW = "mode=755,size=64m"
_RESET = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ST_RELATIME, _MS_RELATIME = 4096, 1 << 21


def spawn(argv: tuple[str, ...], env: dict[str, str], stdout: int, stderr: int) -> int:
    """Start a program in a session of its own, in the current directory, with nothing to read."""
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=_RESET,
    )


# ---- unshare: everything by our own hands --------------------------------------------------------------------


def leave_host() -> None:
    """Make the namespaces for one command. The caller is in the new user namespace at once; its next child is
    process 1 of the others.
    """
    linux.unshare_user(linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)


def enter(launch: Launch) -> None:
    """Put the new root together and go there, as process 1; the current directory is the attempt's."""
    linux.unshare(linux.CLONE_NEWNS)
    # Unmounts of the host still reach us, so a run never keeps one of its disks busy.
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    shown = (*((path, path) for path in launch.read_only), *launch.bound)
    held = {at: os.open(path, os.O_PATH | os.O_CLOEXEC) for path, at in shown}
    repository = {at: os.open(path, os.O_PATH | os.O_CLOEXEC) for path, at in _repository(launch)}
    layers = _open_layers(launch) if launch.overlay else ()
    more = _open_mounts(launch)
    plain = os.open(launch.part(TEMPORARY if launch.overlay else WORKSPACE), os.O_PATH | os.O_CLOEXEC)
    temporary = os.open(launch.part(TEMPORARY), os.O_PATH | os.O_CLOEXEC)
    if launch.system:
        system.put_over(launch.system)
    root = launch.root
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    # The tree of the host is bound recursively below; without this it would bind the new root into itself.
    linux.mount(None, root, None, linux.MS_UNBINDABLE)
    os.chdir(root)
    _bind_entries("/", ".", _OWN | _roots(launch))
    os.mkdir("tmp")
    linux.mount(_fd(temporary), "tmp", None, linux.MS_BIND)
    os.mkdir("spell")
    if layers:
        _mount_overlay("spell", layers)
    else:
        linux.mount(_fd(plain), "spell", None, linux.MS_BIND)
    for root in _roots(launch):
        os.mkdir(root)
    for at, fds in more:
        if launch.overlay:
            _mount_overlay(at[1:], fds)
        else:
            linux.mount(_fd(fds[0]), at[1:], None, linux.MS_BIND)
    for _, at in launch.bound:
        _make_way(launch, at)
    for at, fd in repository.items():
        linux.mount(_fd(fd), at[1:], None, linux.MS_BIND)
    for at in repository:
        _make_read_only(at[1:])
    _hide(launch, held)
    # They lead to what the command may not write to, and it may look at what process 1 holds open.
    opened = [fd for _, fds in more for fd in fds]
    for fd in (*held.values(), *repository.values(), *layers, *opened, plain, temporary):
        os.close(fd)
    os.mkdir("proc")
    linux.mount("proc", "proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount(
        None, ".", None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    )
    linux.pivot_root_here()
    make_directory(launch.cwd)
    os.chdir(launch.cwd)
    linux.drop_capabilities()


def _fd(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _open_layers(launch: Launch) -> tuple[int, ...]:
    lowers = (launch.files, launch.lower) if launch.files else (launch.lower,)
    return _opened(*lowers, launch.part(UPPER), launch.part(WORK))


def _open_layer(launch: Launch, layer: Layer) -> tuple[int, ...]:
    return _opened(layer.lower, launch.part(layer.upper), launch.part(layer.work))


def _open_mounts(launch: Launch) -> list[tuple[str, tuple[int, ...]]]:
    """Where something is mounted besides the workspace, and its layers; or its directory, where there are only copies."""
    if launch.overlay:
        return [(layer.at, _open_layer(launch, layer)) for layer in launch.layers]
    return [(layer.at, _opened(launch.part(layer.place))) for layer in launch.layers if layer.is_root]


def _opened(*paths: str) -> tuple[int, ...]:
    return tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths)


def _roots(launch: Launch) -> frozenset[str]:
    """The directories at the top that are the run's own for what is mounted there."""
    return frozenset(layer.at[1:] for layer in launch.layers if layer.is_root)


def _mount_overlay(target: str, layers: tuple[int, ...]) -> None:
    # By descriptor: no path needs escaping, and none is too long for the options of a mount.
    *lowers, upper, work = map(_fd, layers)
    lower = ":".join(lowers)
    # Volatile: the end of a run would otherwise wait until the host's whole disk has been written out.
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr,volatile"
    linux.mount("overlay", target, "overlay", linux.MS_NOSUID | linux.MS_NODEV, options)


def _bind_entries(directory: str, target: str, left_out: frozenset[str] = frozenset()) -> None:
    """Let everything in a directory of the host be seen in another one, which is empty."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in left_out:
                continue
            place = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
                continue
            if entry.is_dir():
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
            # What this user may not even look at stays empty, as a network share of somebody else.
            with suppress(PermissionError):
                linux.mount(entry.path, place, None, linux.MS_BIND | linux.MS_REC)


def _make_way(launch: Launch, at: str) -> None:
    """Let a directory be made at `at` although the host has none, and without making one on the host: the nearest
    directory that it has is put together anew.
    """
    nearest = _nearest(launch, at)
    if nearest is None:
        return
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", nearest[1:], "tmpfs", flags, _ANEW)
    # From the host's own root, which nothing is mounted over.
    _bind_entries(nearest, nearest[1:])


def _nearest(launch: Launch, at: str) -> str | None:
    """The nearest directory above `at` that the host has; None where a directory can be made at `at` anyway."""
    # The run's own, or out of sight: a directory can be made there.
    free = (*launch.hidden, _TMP, *(f"/{root}" for root in _roots(launch)))
    if os.path.isdir(at) or any(f"{at}/".startswith(f"{path}/") for path in free):
        return None
    nearest = os.path.dirname(at)
    while not os.access(nearest, os.R_OK | os.X_OK):
        nearest = os.path.dirname(nearest)
    return None if nearest == "/" else nearest


def _hide(launch: Launch, held: dict[str, int]) -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV
    hidden = [path[1:] for path in launch.hidden if os.path.isdir(path[1:])]
    for path in hidden:
        linux.mount("tmpfs", path, "tmpfs", flags, "mode=755,size=1m")
    for shown, fd in held.items():
        target = shown[1:]
        os.makedirs(target, exist_ok=True)
        linux.mount(_fd(fd), target, None, linux.MS_BIND | linux.MS_REC)
        _make_read_only(target)
    for path in hidden:
        linux.mount(None, path, None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | flags)


def _repository(launch: Launch) -> tuple[tuple[str, str], ...]:
    """What is bound into the workspace for git, and where: the second goes into the first."""
    if not launch.repository:
        return ()
    return (launch.repository, f"{SPELL}/.git"), (launch.objects, f"{SPELL}/.git/objects")


def _make_read_only(target: str) -> None:
    linux.mount(
        None, target, None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | _locked_flags(target)
    )


def _locked_flags(path: str) -> int:
    """What a remount in a user namespace must repeat, or the kernel refuses it."""
    flags = os.statvfs(path).f_flag
    kept = flags & (linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | 1024 | 2048)
    return kept | (_MS_RELATIME if flags & _ST_RELATIME else 0)


# ---- bubblewrap: we mount the workspace, it does the rest -----------------------------------------------------


def mount_workspace(launch: Launch) -> None:
    """In a user and mount namespace of this process, mount the overlay on the attempt's directory `spell`."""
    linux.unshare_user(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    layers = _open_layers(launch)
    _mount_overlay(launch.part(WORKSPACE), layers)
    for layer in launch.layers:
        more = _open_layer(launch, layer)
        _mount_overlay(launch.part(_place(layer.at)), more)
        layers += more
    for fd in layers:
        os.close(fd)
    if launch.system:
        system.put_over(launch.system)


def _place(at: str) -> str:
    """Where in the attempt's directory bubblewrap finds what a command sees at a path."""
    if at.startswith(f"{SPELL}/"):
        return WORKSPACE + at.removeprefix(SPELL)
    root, _, below = at[1:].partition("/")
    return f"{MOUNTS}/{root}/at/{below}".rstrip("/")


def bubblewrap_argv(launch: Launch, directory: str) -> tuple[str, ...]:
    """The command line of bubblewrap for a command; `directory` is the attempt's."""
    argv = [launch.bubblewrap, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    argv += ["--cap-drop", "ALL"]
    roots = _roots(launch)
    left_out = _OWN | roots
    with os.scandir("/") as entries:
        for entry in entries:
            if entry.name in left_out:
                continue
            if entry.is_symlink():
                argv += ["--symlink", os.readlink(entry.path), entry.path]
            else:
                argv += ["--dev-bind" if entry.name == "dev" else "--bind", entry.path, entry.path]
    own = {TEMPORARY: _TMP, WORKSPACE: SPELL, **{_place(f"/{root}"): f"/{root}" for root in sorted(roots)}}
    for part, at in own.items():
        argv += ["--bind", os.path.join(directory, launch.part(part)), at]
    for path, at in _repository(launch):
        argv += ["--ro-bind", path, at]
    for _, at in launch.bound:
        argv += _way(launch, at)
    # What stands below these is out of sight already.
    unseen = (f"{_TMP}/", *(f"/{root}/" for root in roots))
    hidden = [path for path in launch.hidden if not path.startswith(unseen)]
    for path in hidden:
        argv += ["--tmpfs", path]
    for path, at in (*((path, path) for path in launch.read_only), *launch.bound):
        argv += ["--ro-bind", path, at]
    for path in hidden:
        argv += ["--remount-ro", path]
    argv += ["--proc", "/proc", "--remount-ro", "/", "--chdir", launch.cwd, "--", *launch.argv]
    return tuple(argv)


def _way(launch: Launch, at: str) -> list[str]:
    """What `_make_way` does, for bubblewrap."""
    nearest = _nearest(launch, at)
    if nearest is None:
        return []
    argv = ["--tmpfs", nearest]
    with os.scandir(nearest) as entries:
        for entry in entries:
            if entry.is_symlink():
                argv += ["--symlink", os.readlink(entry.path), entry.path]
            else:
                argv += ["--bind-try", entry.path, entry.path]
    return argv


def make_directory(path: str) -> None:
    """Make a directory of the workspace that the code does not have. What is in its way shows when it is entered."""
    with suppress(FileExistsError, NotADirectoryError):
        os.makedirs(path)


def make_beneath(top: str, path: str) -> None:
    """The same where the machine is still in sight: nothing is made behind a link, which may lead out of `top`."""
    at = os.open(top, _PLACE)
    try:
        for part in filter(None, path.split("/")):
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=at)
            below = os.open(part, _PLACE, dir_fd=at)
            os.close(at)
            at = below
    except NotADirectoryError:
        pass
    finally:
        os.close(at)
