"""YAML files read strictly: plain values alone, no tags, no doubled keys, no bombs."""

import re
from pathlib import Path
from typing import Any

import yaml

from rtl_utils.messages import cut, shown

LARGEST = 1_000_000  # bytes of a file
_MOST_NODES = 1_000_000  # values, with those that aliases repeat
_DEEPEST = 30
_PREFIX = "tag:yaml.org,2002:"
_MERGE = _PREFIX + "merge"


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: `no` and 2026-11-25 are texts, 1e-3 a number, 05 is 5."""

    def whole(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value)
        except ValueError as error:
            problem = "a whole number of thousands of digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


_Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor(_PREFIX + "int", _Loader.whole)


def load(path: Path, where: str) -> Any:
    """What a YAML file holds: mappings with texts as keys, lists and plain values.

    Args:
        path: of the file.
        where: its name in messages.

    Raises:
        ValueError: in one sentence with the line, for what is no such file.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{where} must be at most {LARGEST:,} bytes long")
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            raise ValueError(f"{where} is empty; it must hold a mapping")
        _Checked(where, loader).count(node, 0)
        return loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be UTF-8 text ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        what = error.problem or error.context
        if what == "but found another document":
            what = "it must hold one document, and another begins"
        raise ValueError(f"{where} is not YAML{line}: {what}") from error
    except yaml.YAMLError as error:
        raise ValueError(
            f"{where} is not YAML: {cut(' '.join(str(error).split()), 200)}"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply") from error


class _Checked:
    """Checks the nodes of a file before any value is made of them."""

    def __init__(self, where: str, loader: _Loader) -> None:
        self.where = where
        self.loader = loader
        self.counts: dict[int, int] = {}  # number of a node's values, with repeated ones
        self.open: set[int] = set()

    def count(self, node: yaml.Node, depth: int) -> int:
        """Number of values in a node. Raises ValueError for what is refused."""
        if id(node) in self.counts:
            return self.counts[id(node)]
        line = node.start_mark.line + 1
        if id(node) in self.open:
            raise ValueError(f"{self.where} repeats a value inside itself in line {line}")
        if depth > _DEEPEST:
            raise ValueError(f"{self.where} is nested too deeply in line {line}")
        if node.tag != self.tag(node):
            tag = node.tag.replace(_PREFIX, "!!")
            raise ValueError(f"{self.where} has the tag {tag} in line {line}; tags are not allowed")
        self.open.add(id(node))
        total = 1 + sum(self.count(child, depth + 1) for child in self.children(node))
        self.open.remove(id(node))
        if total > _MOST_NODES:
            raise ValueError(
                f"{self.where} must hold at most {_MOST_NODES:,} values; its aliases repeat more"
            )
        self.counts[id(node)] = total
        return total

    def tag(self, node: yaml.Node) -> str:
        """The tag that a node has where none is written."""
        if not isinstance(node, yaml.ScalarNode):
            return _PREFIX + ("seq" if isinstance(node, yaml.SequenceNode) else "map")
        bare = node.style is None
        resolve: Any = self.loader.resolve  # it has no annotations
        return str(resolve(yaml.ScalarNode, node.value, (bare, not bare)))

    def children(self, node: yaml.Node) -> list[yaml.Node]:
        """What a node holds. Raises ValueError for a key that is no text, or comes twice."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if not isinstance(node, yaml.MappingNode):
            return []
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag not in (_PREFIX + "str", _MERGE):
                said = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                raise ValueError(
                    f"a key in {self.where} must be a text; in line {line} it is {said}: put it in "
                    "quotes"
                )
            if key.value in seen:
                raise ValueError(
                    f"{self.where} has the key {shown(key.value)} twice, in line {line}"
                )
            seen.add(key.value)
        return [value for _, value in node.value]
