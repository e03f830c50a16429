"""Unpadded base64url, the spelling of JWT segments and of keys in settings."""

import base64


def base64url_encode(raw: bytes) -> str:
    """Give the text of some bytes, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def base64url_decode(text: str | bytes) -> bytes:
    """Give the bytes of a text without padding.

    Raises:
        ValueError: it is no base64url, or carries padding or stray bits.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    decoded = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != raw:
        raise ValueError("not canonical base64url")
    return decoded
