"""Mounts over HTTP: what a run would have, and what is refused before there is one."""

import itertools

import pytest

from integration.gateway.bringing import bring, run_with

pytestmark = pytest.mark.integration
_numbers = itertools.count(1)


@pytest.fixture
async def made(stage, client):
    """A run with files and links."""
    files = {
        "d/a": b"a",
        "d/e/b": b"b",
        "f": b"f",
        "to-d": "d",
        "to-f": "d/../f",
        "out": "/etc/passwd",
        "up": "../x",
    }
    return await run_with(stage, client, files, f"mounts{next(_numbers)}")


async def asked(client, *mounts, **given):
    """The answer to creating a run that mounts these; it never starts."""
    body = {
        "command": "true",
        "mounts": [
            {"resource": mount}
            if isinstance(mount, str)
            else dict(zip(("resource", "target"), mount, strict=True))
            for mount in mounts
        ],
    }
    return await client.ask("POST", "/api/runs", json=body | given)


@pytest.mark.parametrize(
    ("below", "target", "path", "is_file"),
    [
        ("", "/spell/x", "", False),
        ("/d", "/spell/x", "d", False),
        ("/d/e/", "/spell/x", "d/e", False),
        ("/f", "/spell/x", "f", True),
        ("/to-d", "/spell/x", "d", False),
        ("/to-f", "/spell/x", "f", True),
    ],
)
async def test_a_mount_is_what_was_at_its_path(client, made, below, target, path, is_file):
    status, run = await asked(client, (f"runs/{made}{below}", target))
    await client.ask("POST", f"/api/runs/{run['id']}/kill")

    (mount,) = run["spec"]["mounts"]
    assert status == 201
    assert (mount["target"], mount["path"], mount["is_file"]) == (target, path, is_file)
    assert mount["manifest"] is not None
    assert mount["owner_id"] == run["owner_id"]


async def test_what_is_missing_and_what_is_somebody_elses_read_alike(stage, client, made):
    await bring(stage, (await client.ask("GET", "/api/me"))[1]["user"]["id"], f"mine{made}", {"a": b"a"})
    async with stage.client("bob") as bob:
        answers = [
            await asked(bob, resource)
            for resource in (
                f"runs/{made}",
                "runs/99999999",
                f"uploads/mine{made}",
                "uploads/nothing",
                "nolink/x",
            )
        ]
    answers += [await asked(client, f"runs/{made}/nothing"), await asked(client, f"runs/{made}/out")]
    answers.append(await asked(client, f"runs/{made}/up"))

    assert {(status, answer["code"], answer["field"]) for status, answer in answers} == {
        (404, "resource_not_found", "mounts")
    }
    assert {answer["message"].partition("not a valid resource")[2] for _, answer in answers} == {
        ": no such file or resource"
    }


async def test_a_name_with_a_colon_is_hinted_at_where_it_is_there(stage, client):
    run_id = await run_with(stage, client, {"a:b": b"x", "c": b"y"}, f"mounts{next(_numbers)}")

    status, answer = await asked(client, (f"runs/{run_id}/a", "b"))
    other = await asked(client, (f"runs/{run_id}/a", "c"))

    assert (status, answer["code"]) == (404, "resource_not_found")
    assert f"'runs/{run_id}/a:b'" in answer["hint"]
    assert "mount the directory that it is in" in answer["hint"]
    assert other[1]["hint"] is None


async def test_what_cannot_be_mounted_makes_no_run(client, made):
    def listed(answer):
        return [run["id"] for run in answer[1]["runs"]]

    before = listed(await client.ask("GET", "/api/runs"))
    refused = [
        await asked(client, resource)
        for resource in (
            "runs/99999999",
            f"runs/{made}/nothing",
            "uploads/nothing",
            "public/nothing",
            "nolink",
        )
    ]

    assert {status for status, _ in refused} == {404}
    assert listed(await client.ask("GET", "/api/runs")) == before


@pytest.mark.parametrize(
    ("mount", "code"),
    [
        (("runs/1/../../x", "/mnt/a"), "mount_source_invalid"),
        (("runs/1/%2e%2e", "/mnt/a"), "mount_source_invalid"),
        (("runs/1/a\\b", "/mnt/a"), "mount_source_invalid"),
        (("runs/1/a\0b", "/mnt/a"), "mount_source_invalid"),
        (("runs/1/" + "x" * 4097, "/mnt/a"), "mount_source_invalid"),
        (("runs", "/mnt/a"), "mount_source_invalid"),
        (("runs/1", "/"), "mount_target_forbidden"),
        (("runs/1", "/proc"), "mount_target_forbidden"),
        (("runs/1", "/etc/x"), "mount_target_forbidden"),
        (("runs/1", "/mnt/../etc"), "mount_target_forbidden"),
        (("runs/1", "/spell"), "mount_target_forbidden"),
        (("runs/1", "a:b"), "mount_target_forbidden"),
        (("runs/1", ""), "mount_target_forbidden"),
        (("s3://", "a"), "bucket_invalid"),
        (("s3://UPPER_/", "a"), "bucket_invalid"),
    ],
)
async def test_what_is_no_mount_is_refused_by_its_code(client, mount, code):
    status, answer = await asked(client, mount)

    assert (status, answer["code"]) == (422, code)


async def test_two_mounts_at_one_place_are_refused_and_both_are_named(client, made):
    status, answer = await asked(client, (f"runs/{made}/d", "a"), (f"runs/{made}/f", "a/b"))

    assert (status, answer["code"]) == (422, "mount_target_conflict")
    assert f"runs/{made}/d" in answer["message"]
    assert f"runs/{made}/f" in answer["message"]


async def test_a_plan_says_what_would_be_mounted_and_refuses_what_a_run_would(client, made):
    body = {"command": "true", "mounts": [{"resource": f"runs/{made}/d"}]}

    _, plan = await client.ask("POST", "/api/runs/plan", json=body)
    refused = await client.ask(
        "POST", "/api/runs/plan", json=body | {"mounts": [{"resource": "runs/99999999"}]}
    )

    assert [mount["target"] for mount in plan["mounts"]] == ["/spell/d"]
    assert (refused[0], refused[1]["code"]) == (404, "resource_not_found")


@pytest.mark.parametrize("linked", [False, True])
async def test_a_rerun_mounts_nothing_of_what_was_archived_whatever_it_was_called(client, made, linked):
    resource = f"runs/{made}/d"
    if linked:
        await client.ask("PUT", f"/api/links/k{made}", json={"target": resource})
        resource = f"k{made}"
    _, run = await asked(client, (resource, "/mnt/x"))
    await client.ask("POST", f"/api/runs/{run['id']}/kill")
    before, again = await client.ask("POST", f"/api/runs/{run['id']}/rerun")
    await client.ask("POST", f"/api/runs/{again['id']}/kill")
    await client.ask("POST", "/api/runs/archive", json={"run_ids": [made]})

    status, answer = await client.ask("POST", f"/api/runs/{run['id']}/rerun")

    assert (before, status, answer["code"]) == (201, 404, "resource_not_found")
    assert answer["message"].endswith(f"run {made} was archived; no outputs")


async def test_a_request_that_is_repeated_gives_its_run_whatever_became_of_the_mounts(client, made):
    headers = {"Idempotency-Key": f"mounts of {made}"}
    body = {"command": "true", "mounts": [{"resource": f"runs/{made}/d"}]}
    _, run = await client.ask("POST", "/api/runs", json=body, headers=headers)
    again = {"Idempotency-Key": f"again {made}"}
    _, rerun = await client.ask("POST", f"/api/runs/{run['id']}/rerun", headers=again)
    for one in (run, rerun):
        await client.ask("POST", f"/api/runs/{one['id']}/kill")
    await client.ask("POST", "/api/runs/archive", json={"run_ids": [made]})

    repeated = await client.ask("POST", "/api/runs", json=body, headers=headers)
    repeated_rerun = await client.ask("POST", f"/api/runs/{run['id']}/rerun", headers=again)
    other = await client.ask("POST", "/api/runs", json=body | {"command": "false"}, headers=headers)
    new = await client.ask("POST", "/api/runs", json=body, headers={"Idempotency-Key": f"new {made}"})

    assert [(status, answer["id"]) for status, answer in (repeated, repeated_rerun)] == [
        (200, run["id"]),
        (200, rerun["id"]),
    ]
    assert (other[0], other[1]["code"]) == (409, "idempotency_conflict")
    assert (new[0], new[1]["code"]) == (404, "resource_not_found")


async def test_a_rerun_mounts_what_a_link_led_to_at_first(client, made):
    await client.ask("PUT", f"/api/links/first{made}", json={"target": f"runs/{made}/d"})
    _, run = await asked(client, (f"first{made}", "/mnt/x"))
    await client.ask("DELETE", f"/api/links/first{made}")

    status, again = await client.ask("POST", f"/api/runs/{run['id']}/rerun")
    for one in (run, again):
        await client.ask("POST", f"/api/runs/{one['id']}/kill")

    assert status == 201
    assert again["spec"]["mounts"] == run["spec"]["mounts"]
    assert run["spec"]["mounts"][0]["led_to"] == f"runs/{made}/d"
