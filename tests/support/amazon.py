"""Amazon on this machine: registries, roles and tokens as moto has them, for the command line and for services."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from support import authority

UP_SECONDS_MAX = 30.0
REGION = "us-west-2"
ACCOUNT = "123456789012"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/spell-cluster"
REPOSITORIES = ("image-gan", "image-processing", "text-generation")


@dataclass
class Amazon:
    """A server that answers for all of Amazon's services."""

    url: str
    #: the authority to trust, where it answers over TLS
    trusted: Path | None = None

    def variables(
        self, access_key: str = "ABCDEFGHIJKL", secret_key: str = "s3cret-of-amazon"
    ) -> dict[str, str]:
        """What boto needs to find it, and to be somebody."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, service: str, access_key: str = "setup", secret_key: str = "setup") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
        )

    def reset(self) -> None:
        """Nothing is left but the role of the cluster and the repositories; everybody may do everything."""
        self._tell("reset-auth", b"inf")
        self._tell("reset", b"")
        for name in REPOSITORIES:
            self.client("ecr").create_repository(repositoryName=name)
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        self.client("iam").create_role(RoleName="spell-cluster", AssumeRolePolicyDocument=_document(trust))

    def person(self, name: str, *actions: str) -> tuple[str, str]:
        """The access key of somebody who may do this."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=_document(statement))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def guard(self) -> None:
        """From now on signatures and policies count."""
        self._tell("reset-auth", b"0")

    def unguard(self) -> None:
        self._tell("reset-auth", b"inf")

    def policies(self) -> dict[str, list[dict[str, Any]]]:
        """The statements of the policies of the cluster's role, by the name of the policy."""
        iam = self.client("iam")
        names = iam.list_role_policies(RoleName="spell-cluster")["PolicyNames"]
        return {
            name: iam.get_role_policy(RoleName="spell-cluster", PolicyName=name)["PolicyDocument"][
                "Statement"
            ]
            for name in names
        }

    def _tell(self, what: str, body: bytes) -> None:
        told = urllib.request.Request(f"{self.url}/moto-api/{what}", body, {"Content-Type": "text/plain"})
        with urllib.request.urlopen(told) as answer:
            answer.read()


def arn(repository: str) -> str:
    return f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository}"


def without(module: str, directory: Path) -> dict[str, str]:
    """Variables of a machine on which a module is not installed."""
    (directory / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    return {"PYTHONPATH": str(directory)}


@contextmanager
def amazon(directory: Path, port: int = 0, *, names: tuple[str, ...] = ()) -> Iterator[Amazon]:
    """It answers for as long as the context lasts; at any free port, unless one is given. With `names`, over TLS, as these."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # The host is a cloud, whatever its name, and no bucket.
    environment["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    trusted = None
    if names:
        trusted, _ = authority.loopback(directory, *names)
        argv += ["-c", str(directory / "server.pem"), "-k", str(directory / "server.key")]
    with (directory / "amazon.log").open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + UP_SECONDS_MAX
        while not _listening(port):
            assert process.poll() is None, (directory / "amazon.log").read_text()
            assert time.monotonic() < deadline, (directory / "amazon.log").read_text()
            time.sleep(0.05)
        yield Amazon(f"{'https' if names else 'http'}://127.0.0.1:{port}", trusted)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
