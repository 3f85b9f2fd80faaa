"""Runs are refused that no machine of their type can run, and taken again as soon as one can."""

import pytest

pytestmark = pytest.mark.integration
IMAGE = {"docker_image": "python:3.12"}


async def test_an_image_is_refused_until_docker_answers_on_a_machine_of_the_type(stage, client):
    async with stage.machine("Tengine") as box:
        box.wire.has = {"engines": ("local",), "gpus": 1, "gpu_models": ("NVIDIA T4",)}
        await box.wire.beat()
        # Whoever asks makes the gateway look.
        _, listed = await client.ask("GET", "/api/machine-types")
        kind = next(kind for kind in listed["machine_types"] if kind["name"] == "Tengine")
        assert (kind["engines"], kind["gpus"], kind["gpu_models"]) == (["local"], 1, ["NVIDIA T4"])
        body = {"command": "true", "machine_type": "tengine", **IMAGE}

        for path in ("/api/runs", "/api/runs/plan"):
            status, answer = await client.ask("POST", path, json=body)
            assert (status, answer["code"], answer["field"]) == (422, "engine_unavailable", "docker_image")
            assert "no machine of type Tengine can run this" in answer["message"]
            assert "Install Docker" in answer["hint"]

        box.wire.has = {"engines": ("docker", "local")}
        await box.wire.beat()
        await client.ask("GET", "/api/machine-types")
        run = await client.create("Tengine", **IMAGE)
        assert run["state"] == "building"
        box.wire.has = {"engines": ("local",)}
        await box.wire.beat()
        await client.ask("GET", "/api/machine-types")
        status, answer = await client.ask("POST", f"/api/runs/{run['id']}/rerun")
        assert (status, answer["code"]) == (422, "engine_unavailable")
        await client.ask("POST", f"/api/runs/{run['id']}/kill")
