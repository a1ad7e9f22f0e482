"""YAML, JSON and paths that users write: read into plain values, and whatever is not plain is refused with its line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from jaxrec.errors import UserError, shown

HALF = re.compile("[\ud800-\udfff]")  # of a character: what is not UTF-8
PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]{0,299})|0x[0-9a-fA-F]{1,200}",  # all such numbers are finite as floats
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|\.inf)|\.nan",
}
"""The texts of each kind of YAML scalar that are not text. What YAML 1.1 reads as something else (010 as 8, 1:30 as 90,
no as false, 2024-01-31 as a date) stays the text that was written."""


def check_text(place: str, text: str) -> str:
    """Returns ``text``; ``place`` begins a message."""
    if "\0" in text or HALF.search(text):
        raise UserError(f"{place}: {shown(text)} holds a NUL character, or bytes that are not UTF-8; leave them out")
    return text


def check_path(place: str, path: str) -> str:
    """Returns ``path``, so that one that no file can have is refused before anything is made."""
    name = max(len(name.encode()) for name in check_text(place, path).split("/"))
    if not path or name > 255 or len(os.path.abspath(path).encode()) > 3800:  # a checkpoint's files need some more
        raise UserError(f"{place}: {shown(path)} is no path; give one of 1 to 3,800 bytes, each name of at most 255")
    return path


def parse_json(text: str, source: str, advice: str = "mend it") -> Any:
    """The value that a JSON text holds; ``source`` begins a message, and ``advice`` ends it."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            raise UserError(f"{source}: one of {shown([*values])} stands twice in one object; leave one out")
        return values

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise UserError(f"{source}: not JSON that can be read ({error}); {advice}") from None


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file; ``what`` says in messages what it is: ``the configuration``."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a NUL
        why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read {what} ({why}); is it another file?") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text holds: numbers, texts, true, false, None, and lists and mappings of them."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{source}{line}: not YAML ({getattr(error, 'problem', None) or error})") from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # in the place of YAML 1.1's

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) or isinstance(event, yaml.AliasEvent):  # lists of aliases have no end
            raise _refused("tags and aliases are not read; write the value out", event)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if HALF.search(text):
            raise _refused(f"{shown(text)} holds half of a character", node)
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuses a key that a mapping holds twice, of which YAML's own loader takes the last without a word."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused("a list or a mapping is no key", key_node)
            if (key := self.construct_object(key_node)) in lines:
                raise _refused(f"{shown(key)} is there already (line {lines[key]})", key_node)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _refused(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


for _kind, _pattern in PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), None)
