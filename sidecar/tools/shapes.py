"""The shape of a response: what stays of it when all that varies from mail to mail is folded.

In: a response line, and the recipient of its record.  Out: the same text with a
placeholder for each address, host, IP address, id and number.  Responses of one
shape are the same answer of a server.

A miner of log templates (drain3-improved 0.10) was tried in its place.  Of the 657 failing
responses in tests/data/logs it makes the same 22 groups.  But it joins short answers of like
length: ``550 5.1.1 <a@x.example> user unknown`` and ``550 5.1.1 <b@x.example> mailbox full``
are ``550 5.1.1 <*> <*> <*>``.  Of 1,620 responses made of 27 texts of large providers, 420
were in one group with another text, and 660 when it was given shapes.  And it learns from the
lines it has seen what varies, so that a group's text changes with the lines that come
before.  What varies in a response is of few, known forms.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

_FORMS: Final = re.compile(
    r"""
      (?P<kept> ^\d{3}(?:\ [245]\.\d{1,3}\.\d{1,3})?(?=\ |$) )  # the reply code stays
    | (?P<link> https?:// [^\s<>"']+ )
    | (?P<address> [^\s<>"'()\[\],;:=]+ @ [^\s<>"'()\[\],;:]+ )
    | (?P<time> \b (?: \d{4}-\d\d-\d\d [T ] )? \d\d:\d\d (?: :\d\d (?: [.,]\d+ )? )?
            (?: Z | [+-]\d\d:?\d\d )? \b )
    | (?P<ip> \b \d{1,3} (?: \. \d{1,3} ){3} \b (?! \.\d )
            | (?<![\w:]) (?= :* [\da-fA-F] ) (?= [\da-fA-F]* : [\da-fA-F]* : )
              [\da-fA-F]{0,4} (?: : [\da-fA-F]{0,4} ){2,7} (?![\w:]) )
    | (?P<status> \b [245] \. \d{1,3} \. \d{1,3} \b (?! \.\d ) )  # a second enhanced code
    | (?P<host> \b (?: [A-Za-z0-9_] [\w-]* \. )+ (?: [A-Za-z]{2,24} | xn--[\w-]+ ) \b \.? )
    | (?P<code> \b [A-Z]{1,6} -? \d{1,6} \b )                   # [TSS04], S3140, RL000001
    | (?P<id> \b (?= [\w+/=.-]* \d ) (?= [\w+/=.-]* [A-Za-z] ) [\w+/=.-]{6,} )
    | (?P<number> \d+ )
    """,
    re.VERBOSE | re.ASCII,
)
_IN_A_LINK: Final = re.compile(
    r"\d{1,3}(?:\.\d{1,3}){3}|(?=[\w%-]*\d)(?=[\w%-]*[a-zA-Z])[\w%-]{12,}|(?<!\w)\d{3,}(?!\w)",
    re.ASCII,
)
_KEPT: Final = frozenset({"kept", "status", "code"})
_QUOTES: Final = re.compile(r"""(?<=[<"'(\[])[^\s<>"'()\[\]]{1,64}(?=[>"')\]])""")

PLACEHOLDERS: Final = ("<address>", "<ip>", "<host>", "<id>", "<number>", "<time>", "<recipient>")
"""What stands in a shape for what varies."""


REPLY: Final = re.compile(r"^\d{3}(?: [245]\.\d{1,3}\.\d{1,3})? ?")
"""The reply code of a response, and its enhanced code."""

LONGEST: Final = 1000
"""Characters of a response that make its shape."""


def shape(text: str, recipient: str = "") -> str:
    """`text` with placeholders for what varies; its recipient's local part is folded, too.

    Of a text of more than :data:`LONGEST` characters only those count.
    """
    text = text[:LONGEST]
    local = recipient.partition("@")[0]
    if local and local in text:
        text = _without(text, local)
    return _FORMS.sub(_fold, text)


def _without(text: str, local: str) -> str:
    """`text` without the local part, where it stands in quotes or cannot be a word."""
    if not local.isalpha():
        text = re.sub(rf"(?<![\w.-]){re.escape(local)}(?![\w.@-])", "<recipient>", text)
    return _QUOTES.sub(lambda m: "<recipient>" if m[0] == local else m[0], text)


def _fold(found: re.Match[str]) -> str:
    form = found.lastgroup
    if form in _KEPT:
        return found[0]
    if form == "link":
        # The path often says which answer it is: only what varies in it goes.
        return _IN_A_LINK.sub("<id>", found[0])
    return f"<{form}>"


def group_name(shape: str) -> str:
    """A short name of a shape, the same in every log: what ``suggest`` is asked for."""
    return hashlib.blake2b(shape.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()


def links(text: str) -> list[str]:
    """The links in a response: most often to the provider's page about it."""
    return [m[0].rstrip(".,;)]") for m in re.finditer(r"https?://[^\s<>\"']+", text)]
