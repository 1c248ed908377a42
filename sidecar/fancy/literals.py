"""Literals that any match of a pattern must contain, and what they look like in a log line.

In: a parsed pattern.  Out: :class:`Literal` values of which every text with a match
contains at least one, or None when no useful ones exist.

Three things lie between the text that rules match and the JSON line in the log
(:attr:`sidecar.log.record.Record.response_line`), and :func:`_in_content` allows for them:

- ``CODE`` and ``C.S.D`` are separate JSON fields, so a literal may not reach back
  into them: ``421 4.7.0 [TS04]`` becomes ``[TS04]``.
- A space in the text may be a line break in the content, so what is searched for
  is a *piece* without a space; the whole is only good for a second look.
- JSON escapes ``"`` and ``\\`` always and ``/`` at will, hence pieces without a slash.
  Any character may also be written ``\\uXXXX``: lines with that escape are for the
  searcher to let through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from . import nodes
from .parse import Parsed

MAX_EXACT: Final = 16
"""How many texts a part of a pattern may stand for and still be multiplied with its neighbours."""

MAX_LITERALS: Final = 200
"""How many literals a pattern may come to; more would cost more than they save."""

_MAX_CLASS: Final = 12
_MAX_COPIES: Final = 8
_HEAD: Final = re.compile(r"[-0-9. ]* ")
_HEAD_ONLY: Final = re.compile(r"[-0-9. ]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f]+")
_SEPARATOR: Final = re.compile(r"[ /]+")

# Most records hold these texts: a literal within one would let every line through.
_BOILERPLATE: Final = (
    '{"type":"reception","delivery","id":"sender":"bounce@recipient":"queue":"site":"'
    '"@smtp_client","size":"response":{"code":250,"enhanced_code":{"class":2,"subject":0,'
    '"detail":null},"content":"","command":null},"peer_address":{"name":"","addr":"127.0.0.1"},'
    '"timestamp":"event_time":"created":"created_time":"num_attempts":0,'
    '"bounce_classification":"uncategorized","egress_pool":"egress_source":"unspecified",'
    '"source_address":{"address":"server":"protocol":"feedback_report":null,"meta":{"tenant":'
    '"campaign":"headers":{"subject":"from":"to":"date":"message-id":"delivery_protocol":"esmtp",'
    '"reception_protocol":"http","nodeid":"tls_cipher":"tls_aes_256_gcm_sha384",'
    '"tls_protocol_version":"tlsv1.3","tls_peer_subject_name":[],"session_id":"provider_name":'
    '"rcpt to:<" .com .net .org https:// ok queued as '
)


@dataclass(frozen=True)
class Literal:
    """A text that a match must contain.

    ``text``: all of it, as the rules see it.  ``piece``: the part of it that stands
    in the log line unbroken and, but for :meth:`escaped`, unchanged.  With
    ``ignore_case`` letters match in either case, ``s`` also ``ſ`` and ``k`` also the
    Kelvin sign.
    """

    text: str
    piece: str
    ignore_case: bool

    @cached_property
    def escaped_text(self) -> bytes:
        """``text`` in a JSON string, as serde_json writes it."""
        return _escape(self.text)

    @cached_property
    def folds_beyond_ascii(self) -> bool:
        """Whether characters beyond ASCII can stand for letters of it."""
        return self.ignore_case and not set("ksKS").isdisjoint(self.text)


def required(parsed: Parsed) -> tuple[Literal, ...] | None:
    """The best set of literals for ``parsed``; None when no set would do."""
    info = _visit(parsed.root)
    options = [option for option in (info.exact, info.needs) if option is not None]
    return _best(options)


# -- from the tree --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    """Characters one after the other; with ``fold`` in any case."""

    chars: str
    fold: bool = False

    def __add__(self, other: _Text) -> _Text:
        return _Text(self.chars + other.chars, self.fold or other.fold)


_Texts = tuple[_Text, ...]


@dataclass(frozen=True, slots=True)
class _Info:
    """What is known of a node.

    ``exact``: all the texts that it matches; None where they are too many.
    ``required``: texts of which every match has one; None where none are known.
    """

    exact: _Texts | None = None
    needs: _Texts | None = None


_NOTHING: Final[_Texts] = (_Text(""),)


def _visit(node: nodes.Node) -> _Info:
    match node:
        case nodes.Char(value, fold):
            return _Info(_char(value, fold=fold))
        case nodes.CharClass(item, fold):
            return _Info(_class(item, fold=fold))
        case nodes.Concat(items):
            return _concat(info for item in items for info in _parts(item))
        case nodes.Alternation(items):
            return _alternation([_visit(item) for item in items])
        case nodes.Group(_, child) | nodes.Atomic(child):
            return _visit(child)
        case nodes.Repeat():
            return _concat(_parts(node))
        case nodes.Look(child, _, False):
            info = _visit(child)
            return _Info(_NOTHING, _either(info))
        case nodes.Conditional(condition, yes, no):
            return _alternation([_concat([_visit(condition), _visit(yes)]), _visit(no)])
        case nodes.AnyChar() | nodes.BackReference():
            return _Info()
    return _Info(_NOTHING)  # places: they match no characters


def _char(value: str, *, fold: bool) -> _Texts | None:
    if not fold or not (value.isalpha() or ord(value) > 127):
        return (_Text(value),)
    # Only the engines know which characters beyond ASCII are equal.
    return (_Text(value.lower(), fold=True),) if value.isascii() else None


def _class(item: nodes.SetNode, *, fold: bool) -> _Texts | None:
    codes = _codes(item)
    if codes is None or not 0 < len(codes) <= _MAX_CLASS:
        return None
    texts: set[_Text] = set()
    for code in codes:
        found = _char(chr(code), fold=fold)
        if found is None:
            return None
        texts.update(found)
    return tuple(sorted(texts, key=lambda text: text.chars))


def _codes(item: nodes.SetNode) -> set[int] | None:
    """The code points of a set that is written out and small."""
    match item:
        case nodes.SetRange(low, high) if high - low < _MAX_CLASS:
            return set(range(low, high + 1))
        case nodes.SetBracket(inner, False):
            return _codes(inner)
        case nodes.SetUnion(items):
            codes: set[int] = set()
            for part in items:
                found = _codes(part)
                if found is None:
                    return None
                codes |= found
            return codes
    return None


def _concat(infos: Iterable[_Info]) -> _Info:
    found: list[_Texts] = []
    current, whole = _NOTHING, True
    for info in infos:
        if info.needs is not None:
            found.append(info.needs)
        if info.exact is None:
            found.append(current)
            current, whole = _NOTHING, False
        elif len(current) * len(info.exact) <= MAX_EXACT:
            current = tuple({left + right: None for left in current for right in info.exact})
        else:
            found.append(current)
            current, whole = info.exact, False
    needs = _better([*found, current])
    return _Info(current if whole else None, needs)


def _alternation(infos: list[_Info]) -> _Info:
    exact: dict[_Text, None] | None = {}
    needs: dict[_Text, None] | None = {}
    for info in infos:
        if exact is not None:
            exact = None if info.exact is None else exact | dict.fromkeys(info.exact)
        either = _either(info)
        if needs is not None:
            needs = None if either is None else needs | dict.fromkeys(either)
    if exact is not None and len(exact) > MAX_EXACT:
        exact = None
    return _Info(
        None if exact is None else tuple(exact),
        None if needs is None or len(needs) > MAX_LITERALS else tuple(needs),
    )


def _parts(node: nodes.Node) -> list[_Info]:
    """The parts of ``node`` as a row.

    The first turn of a repetition stands by itself, to be joined with what is before.
    """
    if not isinstance(node, nodes.Repeat):
        return [_visit(node)]
    child = _visit(node.child)
    low, high = node.low, node.high
    if high is not None:
        low = min(low, high)
    if (low, high) == (0, 1) and child.exact is not None and len(child.exact) < MAX_EXACT:
        return [_Info(tuple(dict.fromkeys((*child.exact, *_NOTHING))))]
    parts = [child] * min(low, _MAX_COPIES)
    if high != low or low > _MAX_COPIES:
        parts.append(_Info())
    return parts


def _either(info: _Info) -> _Texts | None:
    return _better([texts for texts in (info.exact, info.needs) if texts is not None])


def _better(options: Iterable[_Texts]) -> _Texts | None:
    """The set of texts that is the rarest in logs; None where each is too common."""
    scored = [(_score(option), option) for option in options]
    score, best = max(scored, key=lambda pair: pair[0], default=(0.0, _NOTHING))
    return best if score > 0 else None


def _best(options: Iterable[_Texts]) -> tuple[Literal, ...] | None:
    best = _better(options)
    if best is None:
        return None
    literals = dict.fromkeys(found for text in best if (found := _in_content(text)))
    return tuple(one for one in literals if not any(_within(other, one) for other in literals))


def _within(small: Literal, large: Literal) -> bool:
    """Whether `small`, another literal, is found wherever `large` is."""
    return small != large and small.ignore_case == large.ignore_case and small.text in large.text


def _score(texts: _Texts) -> float:
    if len(texts) > MAX_LITERALS:
        return 0.0
    found = [_in_content(text) for text in texts]
    return min((_rarity(literal) for literal in found), default=0.0) - len(texts) / MAX_LITERALS


# -- into the log line ----------------------------------------------------------------


def _in_content(text: _Text) -> Literal | None:
    """The part of ``text`` that must stand in the JSON of the response's content."""
    literals: list[Literal] = []
    for part in _CONTROL.split(text.chars):
        head = _HEAD.match(part)
        whole = (part[head.end() :] if head else part).strip(" ")
        if _HEAD_ONLY.fullmatch(whole):
            continue
        pieces = [piece for piece in _SEPARATOR.split(whole) if _usable(piece)]
        if pieces:
            literals.append(Literal(whole, max(pieces, key=_piece_rarity), text.fold))
    return max(literals, key=_rarity, default=None)


def _usable(piece: str) -> bool:
    if len(piece) < 3 or piece.lower() in _BOILERPLATE:
        return False
    return len(piece) > 3 or not (piece.isalpha() and piece.islower())


def _piece_rarity(piece: str) -> float:
    return len(piece) + sum(0.5 for char in piece if not char.islower())


def _rarity(literal: Literal | None) -> float:
    """How rare, roughly: longer and fewer small letters is rarer; 0 is no literal."""
    if literal is None:
        return 0.0
    rest = len(literal.text) - len(literal.piece)
    return _piece_rarity(literal.piece) + 0.25 * rest


def _escape(text: str) -> bytes:
    return text.replace("\\", "\\\\").replace('"', '\\"').encode(errors="replace")
