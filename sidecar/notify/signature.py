"""The signature of a webhook, as Standard Webhooks (standardwebhooks.com) has it.

In: a message's id, the moment of the attempt, the body, a key.  Out: the headers by
which a receiver knows who sent it, and that it is no old one sent again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def headers(message_id: str, at_seconds: int, body: bytes, *, secret: str | None) -> dict[str, str]:
    """``webhook-id`` and ``webhook-timestamp``, and with a `secret` ``webhook-signature``."""
    found = {"webhook-id": message_id, "webhook-timestamp": str(at_seconds)}
    if secret is not None:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{message_id}.{at_seconds}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found
