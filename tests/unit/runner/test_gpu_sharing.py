"""GPUs are found, divided over slots and given to runs so that none is shared while there are enough."""

from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from spell_proto.errors import SettingsError
from spell_runner import gpus, nvml
from spell_runner.engines.shimmed import choose_gpus
from spell_runner.gpus import Gpu
from spell_runner.settings import Machine

FOUR = tuple(Gpu(f"GPU-{letter}", "NVIDIA T4") for letter in "abcd")


@pytest.mark.parametrize(
    ("count", "slots", "wanted", "each"),
    [(0, 4, 0, 0), (0, 4, 2, 0), (8, 4, 0, 2), (8, 3, 0, 2), (1, 2, 0, 1), (4, 2, 1, 1), (4, 4, 8, 4)],
)
def test_a_run_gets_its_slots_share_or_what_is_wanted_as_far_as_there_are_so_many(count, slots, wanted, each):
    assert gpus.each(count, slots, wanted) == each


@pytest.mark.parametrize(("count", "wanted", "slots"), [(4, 0, 4), (4, 2, 2), (5, 2, 2), (2, 4, 1)])
def test_unless_it_is_said_a_machine_has_slots_for_as_many_runs_as_have_gpus_of_their_own(
    count, wanted, slots
):
    assert gpus.slots_for(count, wanted) == slots


def test_the_least_used_are_chosen_and_the_order_is_that_of_the_machine():
    assert gpus.choose(FOUR, [], 2) == ("GPU-a", "GPU-b")
    assert gpus.choose(FOUR, ["GPU-a", "GPU-c"], 2) == ("GPU-b", "GPU-d")
    assert gpus.choose(FOUR, ["GPU-a", "GPU-b", "GPU-c"], 2) == ("GPU-a", "GPU-d"), (
        "shared as little as can be"
    )
    assert gpus.choose((), [], 0) == ()


def test_where_there_are_none_no_run_has_its_files_read_for_them():
    unread = SimpleNamespace()

    assert choose_gpus(Machine("m", "boot", "CPU", 2, False, "nobody", "/", {}), unread) == ()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 4), st.lists(st.integers(0, 7), max_size=60))
def test_no_two_runs_share_a_gpu_while_there_are_enough_for_all_slots(count, slots, wanted, moves):
    have = tuple(Gpu(f"GPU-{number}") for number in range(count))
    each = gpus.each(count, slots, wanted)
    running: dict[int, tuple[str, ...]] = {}

    for slot in (move % slots for move in moves):
        if slot in running:
            del running[slot]
            continue
        running[slot] = gpus.choose(have, [uuid for held in running.values() for uuid in held], each)
        held = [uuid for given in running.values() for uuid in given]
        assert len(running[slot]) == len(set(running[slot])) == each
        most = -(-slots * each // count)
        assert max(held.count(uuid) for uuid in held) <= (1 if slots * each <= count else most)


def test_an_operator_may_keep_gpus_back_or_name_those_that_nobody_can_ask_for():
    assert gpus.of_machine("auto", FOUR) == FOUR
    assert gpus.of_machine("none", FOUR) == ()
    assert gpus.of_machine("GPU-c, GPU-a", FOUR) == (FOUR[2], FOUR[0])
    assert gpus.of_machine("MIG-1/2", ()) == (Gpu("MIG-1/2"),)
    with pytest.raises(SettingsError, match="there is no GPU-x; there is GPU-a, GPU-b"):
        gpus.of_machine("GPU-x", FOUR)
    with pytest.raises(SettingsError, match="must be auto, none, or UUIDs"):
        gpus.of_machine("0,1", FOUR)


def test_models_are_told_once_each_in_plain_characters():
    assert gpus.models([Gpu("GPU-a", "B\u00f6se\n"), *FOUR, Gpu("GPU-x")]) == ("B?se?", "NVIDIA T4")


# ---- what the driver says ------------------------------------------------------------------------------------


class DriverError(Exception):
    """As `NVMLError`."""


def driver(devices):
    """A library that speaks of these: name -> None, "lost", or the parts it is divided into (None: an empty place)."""
    names = list(devices)

    def handle(index):
        if devices[names[index]] == "lost":
            raise DriverError("GPU is lost")
        return names[index]

    def mode(name):
        if devices[name] is None:
            raise DriverError("Not Supported")
        return 1, 1

    def part(name, index):
        if devices[name][index] is None:
            raise DriverError("Not Found")
        return devices[name][index]

    return SimpleNamespace(
        NVMLError=DriverError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(names),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUUID=lambda name: name,
        nvmlDeviceGetName=lambda name: f"model of {name}",
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda name: len(devices[name]),
        nvmlDeviceGetMigDeviceHandleByIndex=part,
    )


def test_whole_gpus_and_parts_of_divided_ones_are_found_and_a_lost_one_takes_none_with_it():
    found = nvml.found(
        driver({"GPU-a": None, "GPU-b": "lost", "GPU-c": ["MIG-1", None, "MIG-2"], "GPU-d": [None]})
    )

    assert found == tuple(Gpu(uuid, f"model of {uuid}") for uuid in ("GPU-a", "MIG-1", "MIG-2"))


def test_a_driver_that_does_not_answer_is_no_gpu():
    def refuse():
        raise DriverError("Driver/library version mismatch")

    silent = driver({"GPU-a": None})
    silent.nvmlInit = refuse

    assert nvml.found(silent) == ()


@pytest.mark.skipif(nvml.DEVICE.exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_none():
    assert nvml.present() == ()
