"""Values of the configuration that name a file: an objective, a pair selection, a prompt format.

Each file of such a package is one, and the file's name, with dashes, is its own: there is no list. Here only names are
looked up. Who uses a module loads it, so that the configuration needs nothing of what the modules import.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Plugins:
    """The modules of a package but `base`; as an annotation of a text, pydantic accepts their names only."""

    package: str

    def names(self) -> list[str]:
        """What can be named, in alphabetical order."""
        found = {module.name for module in iter_modules(import_module(self.package).__path__)}
        return sorted(name.replace("_", "-") for name in found - {"base"})

    def load(self, name: str) -> Any:
        """The module of one of the names."""
        return import_module(f"{self.package}.{name.replace('-', '_')}")

    def _check(self, name: str) -> str:
        if name not in self.names():
            raise ValueError(f"{name!r} is not known; known are {', '.join(self.names())}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"enum": self.names()}


OBJECTIVES = Plugins("sppo.algorithm.objectives")
SELECTIONS = Plugins("sppo.algorithm.selections")
FORMATS = Plugins("sppo.preparing.formats")
