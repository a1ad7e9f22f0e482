"""YAML that users write: read into plain values, and whatever is not plain is refused with its line.

A scalar is a number, true, false or null only where that is what it says: what YAML 1.1 reads as something else (010 as
8, 1:30 as 90, no as false, 2024-01-31 as a date) stays the text that was written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from jaxrec.errors import UserError, shown

LARGEST = 1_000_000  # characters of a text; a log of events that was named by mistake would take minutes
TAG = "tag:yaml.org,2002:"
PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]{0,299})|0x[0-9a-fA-F]{1,200}",  # all such numbers are finite as floats
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}
"""The texts of each kind of scalar that are not text."""


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file; ``what`` says in messages what it is: ``the configuration``."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a NUL
        why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read {what} ({why})") from None
    if len(text) > LARGEST:
        raise UserError(f"{path}: cannot read {what} (more than {LARGEST:,} characters); is it another file?")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str, lines: bool = True) -> Any:
    """The value that a YAML text holds: numbers, texts, true, false, None, and lists and mappings of them.

    Args:
        source: begins a message.
        lines: whether a message says on which line; of a text of one line it need not.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"not YAML (it holds {shown(chr(int(error.character)))})"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1 if mark else 1, ", ".join(filter(None, (error.context, error.problem)))
        problem = problem if isinstance(error, _Refused) else f"not YAML ({problem})"
    except RecursionError:
        line, problem = 1, "lists and mappings are nested too deep"
    raise UserError(f"{source}{f', line {line}' if lines else ''}: {problem}")


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and we do not."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # in the place of YAML 1.1's
    within = 0  # anchors that the node being read stands within

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise _Refused(f"the tag {shown(event.tag)} is not read; leave it out", event.start_mark)
        if isinstance(event, yaml.AliasEvent) and self.within:  # of itself, or of lists of aliases without end
            raise _Refused("an alias stands within what an anchor names; write it out", event.start_mark)
        within, self.within = self.within, self.within + (getattr(event, "anchor", None) is not None)
        node = super().compose_node(parent, index)
        self.within = within
        return node

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _Refused(f"{shown(text)} holds half of a character", node.start_mark)
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuses a key that a mapping holds twice, of which YAML's own loader takes the last without a word."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused("a list or a mapping is no key", key_node.start_mark)
            key = "<<" if key_node.tag == f"{TAG}merge" else self.construct_object(key_node)
            if key in lines:
                raise _Refused(f"{shown(key)} is there already (line {lines[key]})", key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


for _kind, _pattern in PLAIN.items():
    _Loader.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"(?:{_pattern})\\Z"), None)
