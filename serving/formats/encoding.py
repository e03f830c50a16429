"""Unpadded base64url, the spelling of JWT segments and of keys in settings."""

import binascii

# To the alphabet that `binascii` knows; what only that one has, padding too, becomes a character that none has.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_FROM_STANDARD = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"", b"==", b"=")


def base64url_encode(raw: bytes) -> str:
    """Return the text of some bytes, without padding."""
    return binascii.b2a_base64(raw, newline=False).translate(_FROM_STANDARD, b"=").decode()


def base64url_decode(text: str | bytes) -> bytes:
    """Return the bytes of a text without padding.

    Raises:
        ValueError: it is no base64url, or carries padding or stray bits.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    padded = raw.translate(_TO_STANDARD) + _PADDING[len(raw) % 4]
    decoded = binascii.a2b_base64(padded, strict_mode=True)
    if binascii.b2a_base64(decoded, newline=False) != padded:
        raise ValueError("not canonical base64url")
    return decoded
