"""Amazon's side of `spell cluster …-docker-registry`: which repositories there are, and what the role of the cluster may read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from spell_cli.errors import CliError
from spell_cli.tables import safe

#: Policies within the role: they go with it, cannot be attached elsewhere, and are replaced in one call.
READ_POLICY = "SpellECRRead"
TOKEN_POLICY = "SpellECRTokens"  # noqa: S105 -- a name
_READ = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
_TOKEN = "ecr:GetAuthorizationToken"  # noqa: S105 -- a name
_SID = "SpellReadsImages"


class Repository(NamedTuple):
    """A repository of images, and the registry it is in."""

    name: str
    arn: str
    registry: str


class Account:
    """What an AWS profile may see and change. `role` is the ARN of the IAM role of the cluster."""

    def __init__(self, profile: str, role: str) -> None:
        try:
            self._boto3 = import_module("boto3")
        except ModuleNotFoundError:
            raise CliError(
                "boto3, which speaks to AWS, is not installed here. Install it with: pip install 'spellrun[aws]'"
            ) from None
        self._errors = import_module("botocore.exceptions")
        self.profile = profile
        self.role = role
        self._name = role.rpartition("/")[2]
        with self._told():
            # Asked for by name it must be in a file; by itself, variables count too, and may name another.
            self._session = self._boto3.Session(profile_name=None if profile == "default" else profile)
            self.profile = self._session.profile_name
            found = self._session.get_credentials()
            if found is None:
                raise CliError(
                    f"AWS profile '{safe(profile)}' has no access key here. Make one known with: aws configure"
                )
            self.access_key = found.get_frozen_credentials().access_key
        self.region = self._session.region_name
        if not self.region:
            raise CliError(
                f"AWS profile '{safe(profile)}' has no region. Set one with: aws configure set region REGION"
            )

    def check_owner(self) -> None:
        """See that the role is one of the same account, which alone this profile can change."""
        with self._told():
            here = self._session.client("sts").get_caller_identity()["Account"]
        if here != self.role.split(":")[4]:
            raise CliError(
                f"AWS profile '{safe(self.profile)}' belongs to the account {here}, and the cluster's role {self.role} to another. "
                "Choose another with --profile."
            )

    def repositories(self) -> list[Repository]:
        """Those of the profile's region, by name."""
        with self._told():
            pages = self._session.client("ecr").get_paginator("describe_repositories").paginate()
            found = [
                Repository(
                    one["repositoryName"], one["repositoryArn"], one["repositoryUri"].partition("/")[0]
                )
                for page in pages
                for one in page["repositories"]
            ]
        return sorted(found)

    def readable(self) -> list[str]:
        """The ARNs of the repositories that the role may read."""
        with self._told():
            iam = self._session.client("iam")
            try:
                policy = iam.get_role_policy(RoleName=self._name, PolicyName=READ_POLICY)["PolicyDocument"]
            except iam.exceptions.NoSuchEntityException:
                iam.get_role(RoleName=self._name)  # says so if there is no such role
                return []
        found = [one["Resource"] for one in policy.get("Statement", []) if one.get("Sid") == _SID]
        return [arn for arns in found for arn in ([arns] if isinstance(arns, str) else arns)]

    def allow(self, arns: list[str]) -> None:
        """Let the role read these repositories, and no others, and get logins for their registries."""
        with self._told():
            iam = self._session.client("iam")
            for name, actions, resource, sid in (
                (TOKEN_POLICY, [_TOKEN], "*", "SpellGetsLogins"),
                (READ_POLICY, list(_READ), sorted(arns), _SID),
            ):
                statement = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource}
                document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
                iam.put_role_policy(RoleName=self._name, PolicyName=name, PolicyDocument=document)

    def allow_nothing(self) -> None:
        """Take both policies from the role."""
        with self._told():
            iam = self._session.client("iam")
            for name in (READ_POLICY, TOKEN_POLICY):
                try:
                    iam.delete_role_policy(RoleName=self._name, PolicyName=name)
                except iam.exceptions.NoSuchEntityException:
                    continue

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What boto complains about, as a sentence."""
        try:
            yield
        except self._errors.ClientError as error:
            told: dict[str, Any] = error.response.get("Error", {})
            reason = str(told.get("Message") or told.get("Code"))
            raise CliError(f"AWS refused {error.operation_name}: {safe(reason)}") from None
        except self._errors.BotoCoreError as error:
            raise CliError(f"AWS profile '{safe(self.profile)}' cannot be used: {safe(str(error))}") from None


def registry_of(arn: str) -> str:
    """The registry that the repository of this ARN is in."""
    _, partition, _, region, account, _ = arn.split(":", 5)
    return f"{account}.dkr.ecr.{region}.amazonaws.com{'.cn' if partition == 'aws-cn' else ''}"


def name_of(arn: str) -> str:
    """The name of the repository of this ARN."""
    return arn.partition(":repository/")[2]
