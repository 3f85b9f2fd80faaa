"""Environments over HTTP: what is refused before a run exists, who may remove, and nothing of others is shown."""

import pytest

from integration.gateway.test_gateway_bad_input import newest

pytestmark = pytest.mark.integration
HASH = "sha256:" + "0" * 64


def run(**environment):
    return {"command": "true", "environment": environment}


# Row of the catalogue, environment, code, what the message must hold.
ROWS = [
    ("B15", {"requirements": "#" * (600 << 10)}, "file_too_large", "at most 512 KiB are allowed"),
    ("B15", {"requirements": "six\0"}, "not_text", "it is not UTF-8 text"),
    (
        "B16",
        {"requirements": "\n-r -"},
        "pip_option_not_allowed",
        "requirements, line 2: the option -r is not",
    ),
    (
        "B16",
        {"requirements": "-e ."},
        "pip_option_not_allowed",
        "line 1: -e . means the code of a repository",
    ),
    ("B16", {"requirements": "-e .."}, "pip_option_not_allowed", "line 1: -e '..': a directory of the"),
    ("B16", {"constraints": "-e .", "requirements": "six"}, "pip_option_not_allowed", "constraints choose"),
    (
        "",
        {"requirements": "git+https://10.0.0.1/x"},
        "pip_url_not_allowed",
        "'10.0.0.1' is not on the operator's",
    ),
    (
        "",
        {"conda": "dependencies:\n- pip: ['git+https://10.0.0.1/x']"},
        "pip_url_not_allowed",
        "--conda-file: ",
    ),
    ("B10", {"requirements": "git+ssh://git@github.com/o/r"}, "pip_url_not_allowed", "only git+https is"),
    (
        "B10",
        {"requirements": "git+https://me:hunter2@github.com/o/r"},
        "pip_url_not_allowed",
        "user or password",
    ),
    ("B10", {"pip": ["x @ git+https://github.com/o/r"]}, "pip_url_not_allowed", "no URL and no path"),
    (
        "B16",
        {"requirements": "--find-links /etc # a.txt:7"},
        "pip_option_not_allowed",
        "a.txt, line 7: the option",
    ),
    (
        "B16",
        {"requirements": "six==${HOME}"},
        "pip_option_not_allowed",
        "line 1: ${HOME}: variables are not allowed",
    ),
    (
        "B16",
        {"constraints": "-r x", "requirements": "six"},
        "pip_option_not_allowed",
        "line 1: the option -r",
    ),
    (
        "B16",
        {"requirements": "--extra-index-url https://169.254.169.254/"},
        "pip_index_not_allowed",
        "'169.254.169.254' is not on the operator's list (SPELL_INDEX_HOSTS); allowed: download.pytorch.org, ",
    ),
    ("B10", {"requirements": "foo @ file:///etc/passwd"}, "pip_url_not_allowed", "no path and no URL"),
    ("", {"requirements": f"six>1 --hash={HASH}"}, "pip_hash_missing", "needs an exact version"),
    ("", {"python": "python3"}, "python_invalid", "is not a version of Python, as in 3.12"),
    ("", {"python": "3.99"}, "python_unknown", "there is no Python 3.99 on this machine. There is: 3."),
    ("", {"key": "abc"}, "environment_key_invalid", "64 hexadecimal digits"),
    ("", {"key": "a" * 64}, "environment_unknown", "there is no environment aaaaaaaaaaaa"),
    ("B18", {"conda": "a: &a [1]\nb: *a"}, "conda_file_invalid", "line 2, column 4: an alias (*name) is not"),
    ("B18", {"conda": "a: !!python/object:os.system x"}, "conda_file_invalid", "line 1, column 4: the tag"),
    ("B18", {"conda": "dependencies:\n\t- a"}, "conda_file_invalid", "line 2, column 1: there is a tab"),
    (
        "B19",
        {"conda": "channels: [file:///]\ndependencies: [a]"},
        "conda_channel_not_allowed",
        "line 1, column 12: the channel 'file:///' is not on the operator's list",
    ),
    ("", {"conda": "dependencies: [a]"}, "conda_channel_not_allowed", "the operator has listed no channel"),
    (
        "",
        {"conda": "dependencies: [a]", "pip": ["six"]},
        "flags_conflict",
        "in the conda environment file instead",
    ),
    (
        "",
        {"conda": "dependencies: [a]", "python": "3.12"},
        "flags_conflict",
        "Please include the python version",
    ),
    (
        "",
        {"conda": "dependencies:\n- pip: [-e .]"},
        "pip_option_not_allowed",
        "--conda-file: line 2: -e . is not allowed here: name it in a requirements file",
    ),
    ("", {"framework": "py torch"}, "framework_invalid", "is not NAME or NAME==VERSION"),
    ("", {"framework": "pytroch"}, "framework_unknown", "there is no framework pytroch. There is: default, "),
    ("", {"framework": "caffe==2"}, "framework_version_unknown", "can only be had as an image"),
    ("", {"framework": "caffe", "pip": ["six"]}, "flags_conflict", "is an image with everything in it"),
    (
        "",
        {"framework": "jax", "conda": "dependencies: [a]"},
        "flags_conflict",
        "--framework, --from, --conda",
    ),
    ("", {"framework": ["jax"]}, "field_invalid", "environment.framework"),
    ("", {"accelerator": "rocm"}, "field_invalid", "environment.accelerator"),
    ("", {"requirements": 7}, "field_invalid", "environment.requirements"),
    ("", {"latest": "yes"}, "field_invalid", "environment.latest"),
]


@pytest.mark.parametrize(("row", "environment", "code", "part"), ROWS)
@pytest.mark.parametrize("path", ["/api/runs", "/api/runs/plan"])
async def test_what_cannot_be_made_is_refused_before_a_run_exists(client, path, row, environment, code, part):
    before = await newest(client)
    status, refused = await client.ask("POST", path, json=run(**environment))

    assert status == 422, refused
    assert refused["code"] == code
    assert part in refused["message"]
    assert refused["field"].startswith("environment")
    assert await newest(client) == before


async def test_a_plan_creates_nothing(client):
    before = await newest(client)
    status, plan = await client.ask("POST", "/api/runs/plan", json=run())

    assert status == 200, plan
    assert plan["environment"]["state"] in {"ready", "known"}
    assert plan["code_known"] is None
    assert plan["machine"]["name"] == "CPU"
    assert await newest(client) == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/environments/0000", 404, "environment_unknown"),
        ("GET", "/api/environments/xyz", 422, "environment_key_invalid"),
        ("GET", "/api/environments/..%2f..%2fetc", 422, "environment_key_invalid"),
        ("DELETE", "/api/environments/0000", 404, "environment_unknown"),
        ("GET", "/api/runs/999999/environment", 404, "run_not_found"),
        ("POST", "/api/runs/999999/rerun", 404, "run_not_found"),
    ],
)
async def test_what_is_not_there_is_not_found(client, method, path, status, code):
    answered, refused = await client.ask(method, path)

    assert (answered, refused["code"]) == (status, code)


async def test_frameworks_are_listed_the_default_first(client):
    status, listed = await client.ask("GET", "/api/frameworks")

    assert status == 200, listed
    assert listed["frameworks"][0]["name"] == "default"
    assert {"mxnet", "caffe", "pytorch"} <= {one["name"] for one in listed["frameworks"]}


async def test_a_framework_that_is_an_image_is_a_run_in_that_image(client):
    made = await client.create("CPU", environment={"framework": "caffe"})
    await client.ask("POST", f"/api/runs/{made['id']}/kill")
    await client.until_final(made["id"])

    assert made["spec"]["docker_image"] == "docker.io/bvlc/caffe:cpu"
    assert made["spec"]["environment"]["framework"] is None
    assert made["spec"]["framework"] == "caffe"


async def test_the_text_of_a_requirements_file_is_shown_with_the_run_and_not_in_lists(client):
    made = await client.create("CPU", environment={"requirements": "nowhere==1 # a.txt:1\n"})
    _, shown = await client.ask("GET", f"/api/runs/{made['id']}")
    _, listed = await client.ask("GET", "/api/runs", params={"limit": 1})
    await client.ask("POST", f"/api/runs/{made['id']}/kill")
    await client.until_final(made["id"])

    assert shown["spec"]["environment"]["requirements"] == "nowhere==1 # a.txt:1\n"
    assert listed["runs"][0]["id"] == made["id"]
    assert listed["runs"][0]["spec"]["environment"]["requirements"] is None
