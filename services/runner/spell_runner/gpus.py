"""The GPUs of a machine, how many each of its runs gets, and which. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spell_proto.errors import SettingsError, shown

#: What the driver calls a GPU, or a part of one (MIG).
_UUID = re.compile(r"(GPU|MIG)-[A-Za-z0-9/-]{1,120}", re.ASCII)
_MODEL_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by the name that stays with it, and what it is."""

    uuid: str
    model: str = ""


def of_machine(setting: str, present: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that runs may get. `setting` is `auto` (all that the driver has named), `none`, or UUIDs with commas.

    Raises:
        SettingsError: something is no UUID, or the driver knows GPUs and this one is not among them.
    """
    if setting.strip() in {"", "auto"}:
        return tuple(present)
    if setting.strip() == "none":
        return ()
    known = {gpu.uuid: gpu for gpu in present}
    uuids = dict.fromkeys(part.strip() for part in setting.split(",") if part.strip())
    for uuid in uuids:
        if not _UUID.fullmatch(uuid):
            raise SettingsError(
                f"the setting SPELL_MACHINE_GPUS must be auto, none, or UUIDs of GPUs as nvidia-smi -L shows them, "
                f"not {shown(uuid, 40)}"
            )
        if known and uuid not in known:
            raise SettingsError(
                f"the setting SPELL_MACHINE_GPUS: there is no {uuid}; there is {', '.join(known)}"
            )
    return tuple(known.get(uuid, Gpu(uuid)) for uuid in uuids)


def each(count: int, slots: int, wanted: int) -> int:
    """How many of `count` GPUs every run gets: as many as wanted, else what there is for a slot, at least one."""
    return min(wanted or max(1, count // slots), count)


def slots_for(count: int, wanted: int) -> int:
    """For how many runs at once there are GPUs, so that none has to share one."""
    return max(1, count // (wanted or 1))


def models(gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """What they are, each kind once, as it can be told to others."""
    found = {re.sub(r"[^ -~]", "?", gpu.model)[:_MODEL_CHARS_MAX] for gpu in gpus}
    return tuple(sorted(found - {""}))[:16]


def choose(gpus: Sequence[Gpu], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """The UUIDs for one more run, those first that the fewest have; `taken` names a GPU once for each run that has it.

    So none is shared unless there are more runs than GPUs for them.
    """
    uses = Counter(taken)
    order = sorted(range(len(gpus)), key=lambda index: (uses[gpus[index].uuid], index))
    return tuple(gpus[index].uuid for index in sorted(order[:count]))
