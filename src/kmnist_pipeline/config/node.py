"""The base class of every map in the configuration, common types, and messages for invalid values.

pydantic checks types and limits. Importing it adds 0.13 s to `dvc exp run`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from omegaconf import MISSING
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from kmnist_pipeline.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
NAMED = "lower-case words joined by '_' that begin with a letter"
# Names that mean something else: words of YAML and Hydra; files that are not items; and
# folders of the evidence that are next to those of the models of a report.
TAKEN = {
    *("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"),
    *("none", "base"),
    *("conditions", "suspects", "loop", "readings", "faults", "data"),
}
WORDS = {  # what a value must be, by the type of pydantic's error
    "bool_type": "true or false",
    "dict_type": "a map",
    "finite_number": "a number",
    "float_type": "a number",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_type": "text (in quotes if YAML would read another type)",
    "too_long": "a list of {max_length} or fewer values",
    "too_short": "a list of {min_length} or more values",
}


class ConfigError(UserError, ValueError):
    """An invalid configuration value; the message names key, value and what is allowed."""


class Node(BaseModel):
    """A map of known keys; keys without a default are required, and no value is converted."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, node: Any) -> dict[str, Any]:
        fields = cls.model_fields  # read once: it is a property
        known = ", ".join(fields)
        if not isinstance(node, dict):
            raise must(f"a map of {known}")
        for name in node:
            if name not in fields:
                raise said(f"there is no such key; known keys: {known}", name, node[name])
        given = {name: value for name, value in node.items() if value != MISSING}
        for name, field in fields.items():
            if field.is_required() and name not in given:
                raise said(
                    f"is missing; these keys are needed: {known} "
                    "(does its file start with `defaults: [base, _self_]`?)",
                    name,
                )
        return given


N = TypeVar("N", bound=Node)


def typed(key: str, content: Any, kind: type[N]) -> N:
    """The `content` of `key`, as an object of `kind`. Raises ConfigError for the first mistake."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _refusal(key, error.errors(include_url=False)[0]) from None


def kinds(key: str, known: Mapping[str, type[Node]]) -> PlainValidator:
    """The validator of a map that has one of several types; its value of `key` names the type."""

    def choose(node: Any) -> Node:
        if not isinstance(node, dict):
            raise must(f"a map with the key {key}")
        name = node.get(key)
        if name not in list(known):  # a list, because the name may not be hashable
            raise said(f"must be {one_of(known)}", key, name)
        return known[name].model_validate(node)

    return PlainValidator(choose)


def must(allowed: str) -> PydanticCustomError:
    """The error of a validator; `allowed` says what the value must be."""
    return PydanticCustomError("must", "{allowed}", {"allowed": allowed})


def said(text: str, name: str, *value: Any) -> PydanticCustomError:
    """The error of a validator about the key `name` of its map, and its `value` if it has one."""
    return PydanticCustomError("said", "{text}", {"text": text, "name": name, "value": value})


def why_not(name: str) -> str:
    """What the name of an item must be, or "" if it is that.

    In one place for all kinds, because YAML, Hydra and the file system read every name.
    """
    if not NAME.fullmatch(name):
        return NAMED
    return f"other than {', '.join(sorted(TAKEN))}" if name in TAKEN else ""


def _named(text: str) -> str:
    if not NAME.fullmatch(text):
        raise must(NAMED)
    return text


def _item(text: str) -> str:
    if allowed := why_not(text):
        raise must(allowed)
    return text


Seed = Annotated[int, Field(ge=0)]
Label = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, AfterValidator(_named)]  # of a file, such as the claims `none`
Item = Annotated[str, AfterValidator(_item)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def refused(key: str, value: Any, allowed: str) -> ConfigError:
    """The error of `value` under `key`; `allowed` says what it must be."""
    return ConfigError(f"{key}={shown(value)}: must be {allowed}")


def one_of(known: Iterable[Any]) -> str:
    """What is allowed if only the `known` values are."""
    return f"one of {', '.join(map(shown, known))}"


def shown(value: Any) -> str:
    """`value` as a message shows it, in one line."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    return json.dumps(value, default=str)


def _refusal(key: str, found: ErrorDetails) -> ConfigError:
    context, path = found.get("ctx", {}), found["loc"]
    is_name = path[-1:] == ("[key]",)
    if is_name:
        path = path[:-1]
    elif found["type"] == "said":
        path = (*path, context["name"])
    where = key + "".join(f"[{p}]" if isinstance(p, int) else f".{shown(p)}" for p in path)
    where = where.lstrip(".")
    match found["type"]:
        case "said":
            value = "".join(f"={shown(value)}" for value in context["value"])
            return ConfigError(f"{where}{value}: {context['text']}")
        case "must":
            allowed = context["allowed"]
        case "literal_error":
            allowed = f"one of {context['expected']}".replace("'", "").replace(" or ", ", ")
        case other:
            allowed = WORDS[other].format(**context) if other in WORDS else found["msg"]
    if is_name:
        return ConfigError(f"{where}: the name must be {allowed}")
    return refused(where, found["input"], allowed)
