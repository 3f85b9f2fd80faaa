"""The base of everything that crosses a border between services or people. Pure."""

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Frozen, strict, and no unknown members."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
