"""One request and one answer of the HTTP API: what a refusal means, and whether asking again may help."""

import http.client
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, cast

from spell_cli.errors import CliError, ConfigError
from spell_proto.errors import BY_STATUS, Refusal, RefusedError, SpellError


class Call(NamedTuple):
    """One request, ready to be sent."""

    method: str
    path: str
    data: bytes | None
    headers: dict[str, str]
    seconds: float


class Answer(NamedTuple):
    """One answer, whole."""

    status: int
    reason: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    @property
    def temporary(self) -> bool:
        """Whether the same call may work in a moment."""
        return self.status in {502, 503, 504}

    def problem(self) -> http.client.HTTPException:
        """A temporary answer as an error."""
        refusal = self._parsed()
        return http.client.HTTPException(
            refusal["message"] if refusal is not None else f"{self.status} {self.reason}"
        )

    def refusal(self) -> SpellError:
        """An answer that says no, as the error it means."""
        body = self._parsed()
        if body is None:
            return CliError(f"The server answered {self.status} {self.reason}.")
        message, hint = body["message"], body.get("hint")
        if self.status == 401:
            return ConfigError(message, hint=hint or "Check 'token' in ~/.spell/config, or SPELL_TOKEN.")
        if self.status >= 500:
            return CliError(f"The server went wrong: {message}")
        kind = BY_STATUS.get(self.status, RefusedError)
        return kind(body["code"], message, field=body.get("field"), hint=hint)

    def _parsed(self) -> Refusal | None:
        try:
            body = json.loads(self.body)
        except ValueError:
            return None
        is_refusal = isinstance(body, dict) and {"code", "message"} <= body.keys()
        return cast(Refusal, body) if is_refusal else None
