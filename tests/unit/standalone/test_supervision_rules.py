"""Rules of the supervisor that need no process: how long to wait, what is kept, who may say what."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from spell_standalone import kept, nats, probes, services
from spell_standalone.child import backoff_seconds
from spell_standalone.errors import StandaloneError
from spell_standalone.layout import Layout


def test_the_first_start_again_is_at_once_and_later_ones_ever_slower():
    assert [backoff_seconds(failures) for failures in (1, 2, 3, 4, 6, 7, 1000)] == [
        0,
        0.2,
        0.4,
        0.8,
        3.2,
        5,
        5,
    ]


def test_settings_are_made_once_and_kept(tmp_path):
    first = kept.load(tmp_path / "settings.json")
    again = kept.load(tmp_path / "settings.json")

    assert again == first
    assert len(set(first.ports.values())) == len(kept.PORTS)
    assert (tmp_path / "settings.json").stat().st_mode & 0o777 == 0o600


def test_settings_of_an_older_version_get_the_secret_that_they_lack_once(tmp_path):
    path = tmp_path / "settings.json"
    kept.load(path)
    members = json.loads(path.read_text())
    del members["registry_token"]
    path.write_text(json.dumps(members))

    first = kept.load(path)

    assert len(first.registry_token) >= 32
    assert kept.load(path) == first


def test_a_port_that_is_taken_is_chosen_anew_and_the_others_stay(tmp_path):
    first = kept.load(tmp_path / "settings.json")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", first.ports["nats"]))
        taken.listen()

        again = kept.load(tmp_path / "settings.json")

    assert again.ports["nats"] != first.ports["nats"]
    assert again.ports["gateway"] == first.ports["gateway"]
    assert again.token == first.token


def test_settings_that_cannot_be_read_are_refused_and_not_overwritten(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("{")

    with pytest.raises(StandaloneError, match="cannot be read"):
        kept.load(path)

    assert path.read_text() == "{"


def test_a_runner_may_speak_about_its_machine_only():
    passwords = dict.fromkeys((nats.SERVICE, nats.SUBSCRIBER, nats.runner("m1")), "p" * 20)
    server = nats.Server(4222, Layout(Path("/d")).data, passwords, ("m1",))

    text = nats.configuration(server)

    runner = next(line for line in text.splitlines() if '"runner-m1"' in line)
    assert '"spell.reports.runner.m1.>"' in runner
    assert "spell.reports.>" not in runner
    assert "$JS" not in runner


def test_only_what_services_need_of_the_callers_environment_is_passed_on():
    seen = services.base_environment(
        {
            "PATH": "/bin",
            "AWS_SECRET_ACCESS_KEY": "x",
            "PYTHONPATH": "/tmp",
            "SPELL_SLOTS": "2",
            "LC_ALL": "C",
        }
    )

    assert seen["SPELL_SLOTS"] == "2"
    assert seen["LC_ALL"] == "C"
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert "PYTHONPATH" not in seen


def test_a_stack_without_a_machine_that_answers_is_not_ready():
    none = {"machine_types": [{"name": "CPU", "machines": 0}], "default": "CPU"}
    one = {"machine_types": [{"name": "CPU", "machines": 1}], "default": "CPU"}

    assert not probes.has_machine(none)
    assert probes.has_machine(one)
    assert probes.healthy(json.loads('{"service": "x", "ok": true}'))
    assert not probes.healthy({"service": "x", "ok": False})


def test_a_path_that_is_not_ascii_stands_as_it_is_in_the_configuration_of_nats(tmp_path):
    server = nats.Server(4222, tmp_path / "für mich", {nats.SERVICE: "a", nats.SUBSCRIBER: "b"}, ())

    text = nats.configuration(server)

    assert f'store_dir: "{tmp_path}/für mich"' in text


@pytest.mark.parametrize("given", ["/proc/nope", "a-file"])
def test_a_place_that_cannot_be_a_directory_is_refused_in_one_sentence(tmp_path, given):
    (tmp_path / "a-file").write_text("")

    with pytest.raises(StandaloneError, match="cannot be a directory of the stack: "):
        Layout(tmp_path / given).make()


@pytest.mark.skipif(not os.access("/usr/bin/setpriv", os.X_OK), reason="needs setpriv")
def test_a_purge_removes_directories_that_nobody_may_enter(tmp_path):
    data = tmp_path / "local"
    (data / "tree/closed/inner").mkdir(parents=True)
    (data / "tree/closed/inner/file").write_text("x")
    (data / "tree/closed/inner").chmod(0o000)
    (data / "tree/closed").chmod(0o000)
    (data / "tree").chmod(0o500)
    purge = f"import asyncio; from pathlib import Path; from spell_standalone.purge import purge; asyncio.run(purge(Path({str(data)!r})))"
    # Root may enter every directory: without its capabilities it is like everybody else.
    root = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

    done = subprocess.run([*root, sys.executable, "-c", purge], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert not data.exists()
