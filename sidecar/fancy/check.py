"""The refusal of patterns that fancy-regex refuses, or that are too large to run here.

In: a parsed pattern.  Out: nothing, or :class:`PatternError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from . import nodes
from .errors import PatternError
from .parse import Parsed

WEIGHT_LIMIT: Final = 10 << 20
"""Bytes that Rust's regex crate allows a compiled pattern (its ``size_limit``)."""

COST_LIMIT: Final = 64 << 20
"""Bytes that the ``regex`` module may take for a compiled pattern."""

_PERL_WEIGHTS: Final = {"d": 5_125, "s": 680, "w": 50_000}


@dataclass(frozen=True, slots=True)
class Shape:
    """Facts about a node.

    ``size``: the fewest characters it matches; ``fixed``: it always matches that
    many; ``hard``: beyond Rust's regex crate, run by fancy-regex's own backtracker.
    """

    size: int
    fixed: bool
    hard: bool


def check(parsed: Parsed) -> None:
    """Raise :class:`PatternError` for a tree that fancy-regex refuses to compile."""
    if any(group < 1 or group > parsed.groups for group in parsed.referenced):
        raise PatternError("a reference to a group that does not exist")
    shape = _Checker(parsed.referenced).visit(parsed.root)
    if not shape.hard and _weight(parsed.root) > WEIGHT_LIMIT:
        raise PatternError("too large: KumoMTA refuses it because of its repetitions")
    if shape.hard and (cost := _cost(parsed.root)) > COST_LIMIT:
        raise PatternError(
            f"valid in KumoMTA, but too large to be run here: its repetitions, written out, take "
            f"about {cost >> 20:,} MiB, and {COST_LIMIT >> 20} are allowed"
        )


@dataclass(slots=True)
class _Checker:
    referenced: frozenset[int]
    group_shapes: dict[int, Shape] = field(default_factory=dict)

    def visit(self, node: nodes.Node) -> Shape:
        shapes = [self.visit(child) for child in nodes.children(node)]
        hard = any(shape.hard for shape in shapes)
        match node:
            case nodes.Char() | nodes.AnyChar() | nodes.CharClass():
                return Shape(1, fixed=True, hard=False)
            case nodes.Anchor(kind):
                return Shape(0, fixed=True, hard="word" in kind)
            case nodes.KeepOut() | nodes.SearchStart() | nodes.GroupExists():
                return Shape(0, fixed=True, hard=True)
            case nodes.Concat():
                size = sum(shape.size for shape in shapes)
                return Shape(size, all(shape.fixed for shape in shapes), hard)
            case nodes.Alternation():
                return Shape(min(s.size for s in shapes), _same_size(shapes), hard)
            case nodes.Group(index, _):
                shape = shapes[0]
                self.group_shapes[index] = shape
                return Shape(shape.size, shape.fixed, hard or index in self.referenced)
            case nodes.Repeat(_, low, high, _):
                if high is not None and low > high and not hard:
                    raise PatternError(f"{{{low},{high}}}: the lower bound exceeds the upper one")
                return Shape(shapes[0].size * low, shapes[0].fixed and low == high, hard)
            case nodes.Look(child, behind, _):
                if behind:
                    self.check_look_behind(child, shapes[0])
                return Shape(0, fixed=True, hard=True)
            case nodes.Atomic():
                return Shape(shapes[0].size, shapes[0].fixed, hard=True)
            case nodes.BackReference(group, _):
                shape = self.group_shapes.get(group, Shape(0, fixed=False, hard=True))
                return Shape(shape.size, shape.fixed, hard=True)
            case nodes.Conditional():
                condition, yes, no = shapes
                fixed = all(s.fixed for s in shapes) and condition.size + yes.size == no.size
                return Shape(condition.size + min(yes.size, no.size), fixed, hard=True)
        return Shape(0, fixed=True, hard=False)

    def check_look_behind(self, child: nodes.Node, shape: Shape) -> None:
        """Each alternative of a look-behind has a size of its own, but a fixed one."""
        alternatives = [shape]
        if isinstance(child, nodes.Alternation):
            alternatives = [self.visit(item) for item in child.items]
        if not all(alternative.fixed for alternative in alternatives):
            raise PatternError("a look-behind needs a fixed length")


def _same_size(shapes: list[Shape]) -> bool:
    return all(shape.fixed for shape in shapes) and len({shape.size for shape in shapes}) == 1


def _weight(node: nodes.Node) -> int:
    """About how many bytes the regex crate takes for ``node``, as measured with it."""
    below = sum(_weight(child) for child in nodes.children(node))
    match node:
        case nodes.Char(value, fold):
            return (80 if fold else 32) * len(value.encode())
        case nodes.AnyChar():
            return 1_000
        case nodes.CharClass(nodes.SetPerl(kind, _), _):
            return _PERL_WEIGHTS[kind]
        case nodes.CharClass(nodes.SetProperty(), _):
            return 5_000
        case nodes.CharClass(nodes.SetBracket(_, negated), _):
            return 1_000 if negated else 72
        case nodes.Alternation(items):
            return below + 32 * len(items)
        case nodes.Group():
            return below + 64
        case nodes.Repeat():
            return _written_out(node, below)
    return below


def _cost(node: nodes.Node) -> int:
    """About how many bytes the ``regex`` module takes for ``node``, as measured with it.

    It writes repetitions out, and sets that name classes as hundreds of ranges.
    """
    below = sum(_cost(child) for child in nodes.children(node))
    match node:
        case nodes.CharClass(nodes.SetPerl(), _):
            return 1_000
        case nodes.CharClass(item, _):
            return 90_000 if _names_class(item) else 1_000
        case nodes.Anchor(kind) if "word" in kind:
            return 6_000
        case nodes.Repeat():
            return _written_out(node, below)
    return below + 400


def _written_out(node: nodes.Repeat, below: int) -> int:
    optional = 0 if node.high is None else max(node.high - node.low, 0)
    return node.low * below + optional * (below + 40) + below


def _names_class(item: nodes.SetNode) -> bool:
    match item:
        case nodes.SetRange():
            return False
        case nodes.SetUnion(items):
            return any(_names_class(part) for part in items)
        case nodes.SetBracket(inner, _):
            return _names_class(inner)
    return True
