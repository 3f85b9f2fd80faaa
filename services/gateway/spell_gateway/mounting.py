"""What a run would mount: each resource resolved to what it holds now, or refused before anything is made."""

from collections.abc import Sequence

from spell_gateway.buckets import Buckets
from spell_gateway.files import Files
from spell_gateway.resolving import Resolver
from spell_gateway.shapes import User
from spell_proto.errors import NotFoundError, RefusedError, UnavailableError, shown
from spell_proto.mount_paths import source
from spell_proto.mounts import Mount, MountRequest, placed
from spell_proto.resources import InBucket, Linked
from spell_proto.spec import RunRequest


class Mounts:
    """Finds what requests name."""

    def __init__(self, resolver: Resolver, files: Files, buckets: Buckets) -> None:
        self._resolver = resolver
        self._files = files
        self._buckets = buckets

    async def accept(self, user: User, request: RunRequest) -> tuple[Mount, ...]:
        """The mounts of a request, as its run will have them.

        Raises:
            InvalidError: one of them has no place in the run.
            RefusedError: one of them cannot be mounted.
        """
        targets = placed(request.mounts, request.working_directory)
        return tuple(
            [
                await self._mount(user, asked, target)
                for asked, target in zip(request.mounts, targets, strict=True)
            ]
        )

    async def still_there(self, user: User, mounts: Sequence[Mount]) -> None:
        """See that mounts of an earlier run can be mounted once more, as they were then.

        Raises:
            RefusedError: one of them cannot.
        """
        for mount in mounts:
            try:
                # What it led to when the run was made: the link may lead elsewhere by now, or be gone.
                resource = source(mount.led_to or mount.resource)
                if not isinstance(resource, InBucket | Linked):
                    await self._resolver.resolve(user.id, resource)
                if mount.manifest is not None:
                    await self._kept(mount.owner_id, mount.manifest)
                if mount.bucket is not None:
                    await self._buckets.glance(mount.bucket)
            except UnavailableError:
                raise
            except RefusedError as error:
                raise refused(mount.resource, error) from error

    async def _other_reading(self, user: User, asked: MountRequest) -> str | None:
        """A hint where what was typed, RESOURCE:PATH, is as a whole the name of something that is there."""
        whole = f"{asked.resource}:{asked.target}"
        try:
            found = await self._resolver.resolve(user.id, source(whole))
            there = not isinstance(found.resource, InBucket) and (await self._files.tree(found)).place(
                found.path
            )
        except RefusedError:
            return None
        why = "a colon always stands before PATH, so mount the directory that it is in"
        return f"There is something called {shown(whole)}: {why}." if asked.target and there else None

    async def _kept(self, owner_id: int, manifest: str) -> None:
        try:
            await self._files.manifest(owner_id, manifest)
        except NotFoundError as error:
            raise _nothing_there() from error

    async def _mount(self, user: User, asked: MountRequest, target: str) -> Mount:
        resource = asked.resource
        parsed = source(resource)
        try:
            found = await self._resolver.resolve(user.id, parsed)
            led_to = found.resource.text if isinstance(parsed, Linked) else None
            if isinstance(found.resource, InBucket):
                await self._buckets.glance(found.resource.url)
                return Mount(
                    resource=resource,
                    target=target,
                    owner_id=user.id,
                    bucket=found.resource.url,
                    led_to=led_to,
                )
            if found.manifest is None:
                raise _empty(found.run_id)
            place = (await self._files.tree(found)).place(found.path)
            if place is None:
                raise _nothing_there()
        except UnavailableError:
            raise
        except RefusedError as error:
            told = refused(resource, error)
            told.hint = await self._other_reading(user, asked) or told.hint
            raise told from error
        path, is_file = place
        return Mount(
            resource=resource,
            target=target,
            owner_id=found.owner_id,
            manifest=found.manifest,
            path=path,
            is_file=is_file,
            led_to=led_to,
        )


def refused(resource: str, error: RefusedError) -> RefusedError:
    """Why a resource cannot be mounted. What is missing and what is somebody else's read alike."""
    message = f"--mount: Cannot mount resource {shown(resource)}: not a valid resource: {_why(error)}"
    told = type(error)(error.code, message, field="mounts", hint=error.hint)
    told.status = error.status
    return told


def _why(error: RefusedError) -> str:
    """What became of a run is told to its owner; of everything else just that it is not there."""
    told = error.code != "resource_not_found" or error.message.startswith(("run ", "'s3://", "'gs://"))
    return error.message if told else "no such file or resource"


def _empty(run_id: int | None) -> NotFoundError:
    kept = "it holds no files" if run_id is None else f"run {run_id} saved no files"
    return NotFoundError("resource_empty", kept)


def _nothing_there() -> NotFoundError:
    return NotFoundError("resource_not_found", "no such file or resource")
