"""The process that speaks apprise: ``python -m sidecar.notify.apprise_child``.

In, on stdin: a JSON object with ``url``, ``title`` and ``text``.  Out: exit code 0
where it was sent, else 1 and one line on stderr that says why.
"""

from __future__ import annotations

import json
import logging
import re
import sys

_MENTION = re.compile(r"@(?=everyone|here|channel|all|\w+>)", re.IGNORECASE)


class _Last(logging.Handler):
    """Keeps the last thing that apprise complained of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "apprise did not send it, and does not say why"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def harmless(text: str) -> str:
    """`text` without what a chat would take for markup or for a call to everybody."""
    return _MENTION.sub("@\u200b", text).replace("<", "‹").replace(">", "›")


def main() -> int:
    """Send what stdin says; the exit code."""
    wanted = json.loads(sys.stdin.buffer.read())
    import apprise  # noqa: PLC0415 - it is optional

    last = _Last()
    logger = logging.getLogger("apprise")
    logger.addHandler(last)
    logger.propagate = False
    sender = apprise.Apprise()
    if not sender.add(wanted["url"]):
        sys.stderr.write(f"this is no URL that apprise knows: {last.text}\n")
        return 1
    sent = sender.notify(
        title=harmless(wanted["title"]),
        body=harmless(wanted["text"]),
        body_format=apprise.NotifyFormat.TEXT,
    )
    if not sent:
        sys.stderr.write(f"{last.text}\n")
    return 0 if sent else 1


if __name__ == "__main__":
    sys.exit(main())
