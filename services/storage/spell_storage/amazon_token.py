"""Asks Amazon for a login of its registries, or to be a role: in a process of its own, so that the library for it is in no
service's memory.

One question as JSON on stdin, one answer as JSON on stdout: neither is an argument or a variable, which others could see.
"""

import json
import sys
import time
from base64 import b64decode
from importlib import import_module
from typing import Any

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10
#: How long what an assumed role may do is asked for: it is used at once.
ROLE_SECONDS = 900
#: Less than that; and what a machine that is the role has itself, the library gets anew ten minutes before its end.
SIGNATURE_SECONDS = 600
REASON_CHARS_MAX = 500
#: What is said of rights that were given just now as of those that were not.
_SETTLING = frozenset({"AccessDenied", "AccessDeniedException"})
_NOT_YET = "is not authorized to perform"


def answer(asked: dict[str, str]) -> dict[str, Any]:
    """What was asked for, or what is wrong in `problem`."""
    try:
        botocore = import_module("botocore.session")
        errors = import_module("botocore.exceptions")
    except ModuleNotFoundError:
        return {"problem": "boto3 is not installed on the server: pip install 'spellrun[aws]'"}
    try:
        got = _login if asked["what"] == "registry" else _signature
        return got(botocore.get_session(), asked)
    except errors.ClientError as error:
        told = error.response.get("Error", {})
        reason = " ".join(f"{told.get('Code', 'no reason')}: {told.get('Message', '')}".split())
        passing = told.get("Code") in _SETTLING or _NOT_YET in str(told.get("Message"))
        return {"problem": f"Amazon refused: {reason[:REASON_CHARS_MAX]}", "passing": passing}
    except errors.NoCredentialsError:
        return {"problem": "the server has no AWS identity of its own: no key, no profile and no role"}
    except (errors.ConnectionError, errors.HTTPClientError):
        return {"problem": "Amazon does not answer"}
    except errors.BotoCoreError as error:
        return {"problem": f"the server's AWS settings make no sense: {error}"}


def _login(session: Any, asked: dict[str, str]) -> dict[str, Any]:
    if asked["access_key"]:
        session.set_credentials(asked["access_key"], asked["secret_key"])
    elif asked["role"]:
        _become(session, asked["role"], asked["region"])
    data = _client(session, "ecr", asked["region"]).get_authorization_token()["authorizationData"][0]
    username, _, password = b64decode(data["authorizationToken"]).decode().partition(":")
    return {"username": username, "password": password, "expires_at": data["expiresAt"].timestamp()}


def _signature(session: Any, asked: dict[str, str]) -> dict[str, Any]:
    """What the role signs requests with."""
    _become(session, asked["role"], asked["region"])
    mine = session.get_credentials().get_frozen_credentials()
    return {
        "access_key": mine.access_key,
        "secret_key": mine.secret_key,
        "token": mine.token,
        "expires_at": time.time() + SIGNATURE_SECONDS,
    }


def _become(session: Any, role: str, region: str) -> None:
    """Act as a role, unless that is who we are."""
    tokens = _client(session, "sts", region)
    # A machine of the cluster: arn:aws:sts::123456789012:assumed-role/<name>/<session>.
    here = tokens.get_caller_identity()["Arn"].split(":")
    account, name = role.split(":")[4], role.rpartition("/")[2]
    if here[4] == account and here[5].startswith(f"assumed-role/{name}/"):
        return
    told = tokens.assume_role(RoleArn=role, RoleSessionName="spell", DurationSeconds=ROLE_SECONDS)
    lent = told["Credentials"]
    session.set_credentials(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])


def _client(session: Any, service: str, region: str) -> Any:
    config = import_module("botocore.config").Config(
        connect_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS, retries={"max_attempts": 1}
    )
    return session.create_client(service, region_name=region, config=config)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
