"""What is wrong with an engine, as a sentence with what to do.  Pure.

In: the error that the client raised.  Out: a text for status, and whether this
connection is of no more use.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from .address import Address

_REFUSED: Final = re.compile(r"^Error ([1-9][0-9]{0,2}) connecting to \S+\. Connect call failed")
_CUT: Final = re.compile(r"^Error while reading from .*reset by peer|^Connection closed by server")
_PLACE: Final = re.compile(r"^Error -?\d+ connecting to \S+\. ")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong.  ``fatal``: the connection must be made anew."""

    text: str
    fatal: bool


class EngineError(Exception):
    """The engine can't be used as it is; the message says what is wrong and what to do."""


def explain(error: BaseException, address: Address, *, group: str, seconds: float) -> Trouble:
    """`error` for people.  `seconds` is how long an answer was waited for."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = address.without_secrets(str(error))[:300]
    at = str(address)

    def trouble(message: str, *, fatal: bool = True) -> Trouble:
        return Trouble(f"{at}: {message}", fatal)

    if isinstance(error, EngineError):
        return trouble(text)
    if names & {"AuthenticationError", "AuthenticationWrongNumberOfArgsError"} or text.startswith(
        ("WRONGPASS", "NOAUTH")
    ):
        return trouble(
            "refuses the user or the password: see the user in the URL and --share-password-file"
        )
    if "NoPermissionError" in names or "NOPERM" in text or "can't run this command" in text:
        return trouble(
            f"this user may not do what sharing needs ({text}): give it the keys "
            f"~tsa-sidecar:{{{group}}}:* and the commands that the page on several hosts lists",
            fatal=False,
        )
    if "ReadOnlyError" in names or "READONLY" in text or "read only replica" in text:
        return trouble("is a replica, which takes nothing: name the primary, or use Sentinel")
    if "OutOfMemoryError" in names or "OOM" in text or "maxmemory" in text:
        return trouble(
            "is full and takes nothing: raise its maxmemory, or lower --share-most", fatal=False
        )
    if "BusyLoadingError" in names or "LOADING" in text:
        return trouble("is loading its data; tried again until it has")
    if "MISCONF" in text:
        return trouble(f"can't write its data to disk and takes nothing: {text}", fatal=False)
    if names & {"AskError", "ClusterError"} or text.startswith(("TRYAGAIN", "UNBLOCKED")):
        return trouble(f"is being rearranged ({text}); tried again until that is over")
    if "unknown command" in text.lower() or "XTRIM" in text:
        return trouble(f"is too old ({text}): sharing needs Redis 6.2 or Valkey", fatal=False)
    if text.startswith("WRONGTYPE"):
        return trouble(
            f"one of the keys tsa-sidecar:{{{group}}}:* holds another kind of value (WRONGTYPE): "
            "delete it, the sidecars tell their logs again",
            fatal=False,
        )
    if text.startswith("Protocol error") or "InvalidResponse" in names:
        return trouble(
            f"answers, but not as Redis or Valkey does ({text}): look at the host and the port, "
            "and whether it wants TLS (rediss://)"
        )
    if "TimeoutError" in names:
        return trouble(f"does not answer within {seconds:g} s; tried again until it does")
    if "ResponseError" in names:
        return trouble(f"refuses: {text}", fatal=False)
    said = _reason(text) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        said += " (?ssl_ca_certs=FILE behind the URL names a CA of your own)"
    return trouble(f"can't be reached: {said}; tried again until it can")


def _reason(text: str) -> str:
    """What redis-py says without the number and the place, which stand before it already."""
    if failed := _REFUSED.match(text):
        return os.strerror(int(failed[1]))
    if _CUT.match(text):
        return "the connection was cut off; does it want TLS (rediss://)?"
    return _PLACE.sub("", text).removesuffix(".")
