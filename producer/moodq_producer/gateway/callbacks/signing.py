"""The signature of a callback, as Standard Webhooks has it: a receiver needs no code of ours to check it.

Each API key's callbacks are signed with a secret of its own, made from the gateway's: a receiver that knows
its secret cannot sign for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

SECRET_PREFIX = "whsec_"  # noqa: S105 - not one itself


def secret_of(master: str, key_name: str) -> bytes:
    """The 32 bytes with which callbacks of the key called ``key_name`` are signed."""
    return hmac.digest(master.encode(), f"moodq callback {key_name}".encode(), hashlib.sha256)


def shown(secret: bytes) -> str:
    """The secret as receivers are given it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signed_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that let a receiver check who sent ``body``, and when (unix seconds)."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
