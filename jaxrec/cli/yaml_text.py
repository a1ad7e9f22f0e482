"""YAML that users write: read into plain values, and whatever is not plain is refused with its line.

A scalar is a number, true, false or null only where that is what it says: what YAML 1.1 reads as something else (010 as
8, 1:30 as 90, no as false, 2024-01-31 as a date) stays the text that was written.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from jaxrec.errors import UserError, shown

LARGEST = 1_000_000  # characters of a text; a log of events that was named by mistake would take minutes
DEEPEST = 50  # lists and mappings within one another
MOST = 50_000  # values, where those that aliases repeat count as often as they are repeated
LONGEST_NUMBER = 300  # digits: every such number is finite as a float

TAG = "tag:yaml.org,2002:"
INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
NULL = ("", "~", "null", "Null", "NULL")


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file.

    Args:
        what: that it is, for the message: ``the configuration``.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(LARGEST + 1)
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot read {what} (not UTF-8 text)") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{path}: cannot read {what} ({getattr(error, 'strerror', None) or error})") from None
    if len(text) > LARGEST:
        raise UserError(f"{path}: cannot read {what} (more than {LARGEST:,} characters); is it another file?")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str, lines: bool = True) -> Any:
    """The value that a YAML text holds: numbers, texts, true, false, None, and lists and mappings of them.

    Args:
        source: begins a message.
        lines: whether a message says on which line; of a text of one line it need not.
    """
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"it holds {shown(chr(int(error.character)))}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1 if mark else 1, error.problem or "unreadable"
        if isinstance(error, _Refused):
            raise UserError(f"{source}{f', line {line}' if lines else ''}: {error.said(lines)}") from None
        if isinstance(error, yaml.composer.ComposerError) and error.context:  # undefined aliases, second documents
            problem = f"{error.context}, {problem}"
    finally:
        if loader is not None:
            loader.dispose()
    raise UserError(f"{source}{f', line {line}' if lines else ''}: not YAML ({problem})")


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and we do not; ``before`` is the line where a key is for the first time."""

    def __init__(self, problem: str, mark: Any, before: int | None = None) -> None:
        super().__init__(None, None, problem, mark)
        self.before = before

    def said(self, lines: bool) -> str:
        return f"{self.problem} (line {self.before})" if lines and self.before else str(self.problem)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # of PyYAML; ``resolve`` takes their place

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # values below each node, by its id; the nodes live as long as the loader

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a scalar without one."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, implicit))
        if value in NULL:
            return f"{TAG}null"
        if value in BOOL:
            return f"{TAG}bool"
        if value == "<<":
            return f"{TAG}merge"
        return TAG + ("int" if INT.fullmatch(value) else "float" if FLOAT.fullmatch(value) else "str")

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Bounds what is read: lists within lists, and lists of aliases of lists of aliases."""
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        if self._depth == DEEPEST:
            raise _Refused(f"lists and mappings are nested more than {DEEPEST} deep", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise _Refused("an alias stands within what it names", mark)
        if not alias:
            below = node.value if isinstance(node, yaml.SequenceNode) else ()
            below = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else below
            self._sizes[id(node)] = 1 + sum(self._sizes[id(one)] for one in below)
        if max(self._sizes[id(node)], len(self._sizes)) > MOST:
            raise _Refused(f"more than {MOST:,} values, with those that aliases repeat", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuses a key that a mapping holds twice, of which YAML's own loader takes the last without a word.

        What ``<<`` merges is put in here: a key of the mapping's own wins, then that of the first mapping merged.
        """
        node = super().compose_mapping_node(anchor)
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused("a list or a mapping is no key", key_node.start_mark)
            merges = key_node.tag == f"{TAG}merge"
            key = key_node.value if merges else self.construct_object(key_node)
            if key in lines:
                raise _Refused(f"{shown(key)} is there already", key_node.start_mark, lines[key])
            lines[key] = key_node.start_mark.line + 1
            if not merges:
                own[key] = key_node, value_node
                continue
            for one in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                if not isinstance(one, yaml.MappingNode):
                    raise _Refused("only mappings can be merged with <<", key_node.start_mark)
                merged = {self.construct_object(pair[0]): pair for pair in one.value} | merged
        node.value = list((merged | own).values())
        return node


def _scalar(loader: _Loader, node: Any) -> Any:
    """A null, bool, int or float, which a tag may have promised of any text."""
    text, kind = loader.construct_scalar(node), node.tag.removeprefix(TAG)
    digits = sum(character.isdigit() for character in text)
    if digits > LONGEST_NUMBER:
        raise _Refused(f"a number of {digits:,} digits; at most {LONGEST_NUMBER} are read", node.start_mark)
    if kind == "null" and text in NULL:
        return None
    if kind == "bool" and text in BOOL:
        return BOOL[text]
    if kind == "int" and INT.fullmatch(text):
        return int(text, 16) if text.startswith("0x") else int(text)
    if kind == "float" and (FLOAT.fullmatch(text) or INT.fullmatch(text)):
        number = text.lower()
        return math.nan if number == ".nan" else float(number.replace(".inf", "inf"))
    raise _Refused(f"{shown(text)} is no {kind}", node.start_mark)


def _text(loader: _Loader, node: Any) -> str:
    text = str(loader.construct_scalar(node))
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Refused(f"{shown(text)} holds half of a character", node.start_mark)
    return text


def _unknown(loader: _Loader, node: Any) -> Any:
    raise _Refused(f"the tag {shown(node.tag)} is not read; leave it out", node.start_mark)


_Loader.yaml_constructors = {
    **{f"{TAG}{kind}": _scalar for kind in ("null", "bool", "int", "float")},
    **{f"{TAG}{kind}": yaml.SafeLoader.yaml_constructors[f"{TAG}{kind}"] for kind in ("seq", "map")},
    **dict.fromkeys((f"{TAG}str", f"{TAG}merge"), _text),  # << that is no key
    None: _unknown,
}
