"""Which 32 bytes are a public key that somebody holds the secret of: for a few, everybody can sign or open.

A signature under an Ed25519 key of small order is made without any secret, and OpenSSL takes it; what is sealed to an X25519 key of
small order is sealed with nothing. A number above the field's is a second spelling of a smaller one, and would pass as another person.
"""

from __future__ import annotations

_FIELD = 2**255 - 19


def _number(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), "little")


# y of the eight points whose order divides 8 (RFC 8032, section 5.1), which come in pairs of one y: orders 1, 2, 4, 8 and 8.
_ORDER_8 = _number("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
_SMALL_Y = frozenset({1, _FIELD - 1, 0, _ORDER_8, _FIELD - _ORDER_8})
# u of the points of small order on the curve and on its twist (RFC 7748, section 6.1: what is agreed on with them is all zeros).
_SMALL_U = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        _number("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        _number("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    }
)


class KeyOfNobody(ValueError):
    """Signing with this public key, or opening what is sealed to it, may need no secret."""


def usable_ed25519(public: bytes) -> bool:
    """Whether these are 32 bytes that Ed25519 may verify with: y is below 2^255 - 19, and the point none of the eight of small order."""
    y = int.from_bytes(public, "little") & (2**255 - 1)  # the highest bit is the sign of x
    return len(public) == 32 and y < _FIELD and y not in _SMALL_Y


def usable_x25519(public: bytes) -> bool:
    """Whether these are 32 bytes that may be sealed to: u is below 2^255 - 19, and none of small order."""
    u = int.from_bytes(public, "little")
    return len(public) == 32 and u < _FIELD and u not in _SMALL_U
