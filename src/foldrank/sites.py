"""A site: one linear map inside a decoder block, written `block.07.down` or, packed, `block.07.qkv`.

Block numbers are always those of the source checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""Single roles, in the order in which a block applies them."""

PACKED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Names of packed weights: their roles in storage order along the output axis."""

_NAMES = {roles: name for name, roles in PACKED.items()}
_SITE = re.compile(r"block\.(\d{2,})\.(\w+)")


@dataclass(frozen=True, order=True)
class Site:
    """Block number and roles in storage order; more than one role where a weight is packed."""

    block: int
    roles: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.block < 0 or not (self.roles in _NAMES or (len(self.roles) == 1 and self.roles[0] in ROLES)):
            raise ValueError(f"no such site: block {self.block}, roles {self.roles}")

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read `block.07.qkv`. Raises ValueError on anything else, also on a second spelling (`block.007.q`)."""
        match = _SITE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no site; a site reads block.07.down")
        number, name = match.groups()
        site = cls(int(number), PACKED.get(name, (name,)))
        if str(site) != text:
            raise ValueError(f"{text!r} is written {site}")
        return site

    @property
    def role(self) -> str:
        """Role name as written: `down`, or `qkv` for a packed site."""
        return _NAMES.get(self.roles, self.roles[0])

    @property
    def parts(self) -> tuple[Site, ...]:
        """The single-role sites this one covers, in storage order; itself where it is not packed."""
        return tuple(Site(self.block, (role,)) for role in self.roles)

    def __str__(self) -> str:
        return f"block.{self.block:02d}.{self.role}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> Any:
        def read(value: object) -> Site:
            if isinstance(value, Site):
                return value
            if not isinstance(value, str):
                raise ValueError(f"{value!r:.40} is no site; a site reads block.07.down")
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )
