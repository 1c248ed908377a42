"""Domain names as KumoMTA's resolver reads and writes them, and site names made of MX hosts.

In: text of a domain or MX host.  Out: labels, text, site names.

Upstream's parser takes names that DNS takes and a mail server meets: Unicode
(turned into ``xn--``), a leading underscore label, escapes; it refuses other
ASCII signs, empty labels and names that are too long.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Labels = tuple[str, ...]
"""A name's labels from the left, ASCII and lower-case; the root has none."""


_LENGTH_MAX = 4096
"""Of a name as it is written; what is longer, escapes and all, is not worth reading."""


def parse_name(text: str) -> Labels:
    """The labels of a domain name; ValueError for what upstream's resolver takes for no name."""
    if len(text) > _LENGTH_MAX:
        raise ValueError(f"{text[:80]!r} is too long for a domain name")
    labels = tuple(_label(label, text) for label in _split(text))
    if sum(len(label) + 1 for label in labels) + 1 > 255:
        raise ValueError(f"{text[:80]!r} is too long for a domain name")
    return labels


def is_name(text: str) -> bool:
    """Whether `text` can be a domain name (``[10.0.0.1]`` and ``a:25`` can't)."""
    try:
        parse_name(text)
    except ValueError:
        return False
    return True


def count_labels(labels: Labels) -> int:
    """As upstream counts them: a leading ``*`` is none."""
    return len(labels) - (labels[:1] == ("*",))


def _split(text: str) -> list[str]:
    """Labels as written, escapes resolved; a final dot adds none."""
    if text in ("", "."):
        return []
    labels, label, position = [], "", 0
    while position < len(text):
        c = text[position]
        position += 1
        if c == ".":
            labels.append(label)
            label = ""
        elif c == "\\":
            c, position = _escaped(text, position)
            label += c
        elif unicodedata.category(c) in ("Cc", "Zs", "Zl", "Zp"):
            raise ValueError(f"{text[:80]!r} is no domain name: it holds white space")
        else:
            label += c
    return [*labels, label] if label else labels


def _escaped(text: str, position: int) -> tuple[str, int]:
    """What an escape stands for: three octal digits, or the sign itself."""
    if m := re.compile(r"[0-7]{3}").match(text, position):
        return chr(int(m[0], 8)), m.end()
    if position >= len(text):
        return "", position
    if text[position].isnumeric():
        raise ValueError(f"{text[:80]!r} is no domain name: an escape has three octal digits")
    return text[position], position + 1


_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]*")
_UNDERSCORE_LABEL = re.compile(r"_[A-Za-z0-9_.-]*")


def _label(label: str, text: str) -> str:
    if label == "*":
        return label
    if _UNDERSCORE_LABEL.fullmatch(label):
        ascii_label = label.lower()
    else:
        ascii_label = _idna(label)
        if _HOST_LABEL.fullmatch(ascii_label) is None:
            raise ValueError(f"{text[:80]!r} is no domain name: {label[:80]!r} can't be in one")
    if len(ascii_label) > 63:
        raise ValueError(f"{text[:80]!r} is no domain name: a part is longer than 63 characters")
    return ascii_label


def _idna(label: str) -> str:
    """The ASCII form by UTS #46 (non-transitional), or something that is no label at all.

    Python's own ``idna`` codec is of 2003 and would turn ß into ss.  The mapping
    is NFKC with lower case; what few code points UTS #46 treats otherwise no
    mail server has been seen to use.
    """
    if not label.isascii():
        label = "".join(
            c for c in unicodedata.normalize("NFKC", label) if c not in "\u00ad\u200b\u2060\ufeff"
        )
        label = unicodedata.normalize("NFKC", label.lower())
    label = label.lower()
    if any(c in label for c in ".\u3002\uff61"):
        return ""  # upstream takes an ideographic full stop for a letter of the label
    if label.isascii():
        return label if not label.startswith("xn--") or _decode(label) is not None else ""
    first = unicodedata.category(label[0])
    if first.startswith("M") or any(not _allowed(c) for c in label):
        return ""
    return "xn--" + label.encode("punycode").decode("ascii")


def _allowed(c: str) -> bool:
    if c.isascii():
        return c.isalnum() or c == "-"
    return unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs") or (
        c in "\u200c\u200d"
    )


def _decode(label: str) -> str | None:
    """The Unicode form of an ``xn--`` label; None where it is none."""
    try:
        decoded = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return None
    if decoded.isascii() or not all(_allowed(c) for c in decoded):
        return None
    if unicodedata.normalize("NFC", decoded.lower()) != decoded:
        return None
    return decoded


def host_text(labels: Sequence[str]) -> str:
    """An MX host as upstream shows it: Unicode for ``xn--``, odd signs escaped, a final dot."""
    return ".".join(_shown_label(label) for label in labels) + "."


def _shown_label(label: str) -> str:
    if label.startswith("xn--") and (decoded := _decode(label)) is not None:
        return decoded
    return escape_label(label)


def escape_label(label: str) -> str:
    """A label with everything but letters, digits, ``-`` and ``_`` escaped."""
    shown = ""
    for position, c in enumerate(label):
        if (c.isascii() and c.isalnum()) or c in ("_", "-" if position else "*"):
            shown += c
        else:
            shown += f"\\{c}" if "\x20" < c < "\x7f" else f"\\{ord(c):03o}"
    return shown


def split_port(text: str) -> tuple[str, int | None]:
    """``name:25`` into its parts.  More than one colon is an IPv6 address, not a port."""
    name, colon, port = text.rpartition(":")
    if not colon or ":" in name or re.fullmatch(r"\+?[0-9]+", port, re.ASCII) is None:
        return text, None
    number = int(port[-40:])
    return (name, number) if len(port) < 40 and number <= 65535 else (text, None)


@dataclass(frozen=True, slots=True)
class Address:
    """A domain literal: an address, perhaps with a port, as upstream writes it."""

    text: str


@dataclass(frozen=True, slots=True)
class Domain:
    """A name to be looked up, perhaps with a port."""

    labels: Labels
    port: int | None

    @property
    def key(self) -> str:
        """The same for every spelling of the domain."""
        name = ".".join(escape_label(label) for label in self.labels)
        return name if self.port is None else f"{name}:{self.port}"


@lru_cache(maxsize=4096)
def classify(text: str) -> Address | Domain:
    """What a routing domain is: a literal or a name.  ValueError when it is neither."""
    name, port = split_port(text)
    if not name.startswith("["):
        return Domain(parse_name(name), port)
    if not name.endswith("]"):
        raise ValueError(f"{name[:80]!r} is no domain literal: its ] is missing")
    literal, inner_port = split_port(name[1:-1].lower())
    if inner_port is not None:
        if port is not None:
            raise ValueError(f"{text[:80]!r} has a port both inside and outside its brackets")
        port = inner_port
    return Address(_address_text(literal, port))


def _address_text(literal: str, port: int | None) -> str:
    is_v6 = literal.startswith("ipv6:")
    try:
        if "%" in literal:
            raise ValueError
        address = ipaddress.ip_address(literal.removeprefix("ipv6:"))
        if is_v6 and address.version != 6:
            raise ValueError
    except ValueError:
        raise ValueError(f"{literal[:80]!r} is no IP address") from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address) if port is None else f"{address}:{port}"
    text = str(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"
    return text if port is None else f"[{text}]:{port}"


def site_name(hosts: Sequence[str]) -> str:
    """The name of the site made of these MX hosts, in their order.

    Labels are compared from the right; a position where the hosts differ
    becomes ``(a|b)``, one that some host lacks gets ``?``.  A host that is no
    domain name does not count, as upstream has it.  The null MX's is "".
    """
    reversed_labels = []
    for host in hosts:
        name, port = split_port(host)
        try:
            labels = list(parse_name(name))
        except ValueError:
            continue
        if port is not None and labels:
            labels[-1] += f":{port}"
        reversed_labels.append(labels[::-1])
    depth = max((len(labels) for labels in reversed_labels), default=0)
    positions = []
    for i in range(depth):
        present = dict.fromkeys(labels[i] for labels in reversed_labels if i < len(labels))
        text = "|".join(present)
        missing = any(i >= len(labels) for labels in reversed_labels)
        positions.append((text if len(present) == 1 else f"({text})") + ("?" if missing else ""))
    return ".".join(reversed(positions))
