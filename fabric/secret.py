"""Secret of a fabric and key of a node: their text, and the keys that CURVE and announcements need of them.

Everything here is derived by BLAKE2b, keyed with the secret or with the node's own 32 bytes; what public key belongs to
a secret one is for libzmq to say, so that comes in as a function. None of the objects shows a key: not in its repr,
not in an error, and no copy of it leaves the process by pickle.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NoReturn

from peerfabric.errors import ConfigError

KEY_BYTES: Final = 32
"""Of a secret, of a node's key, and of each key for CURVE."""
SECRET_PREFIX: Final = "pf1-"
SECRET_TEXT_LENGTH: Final = 62
"""Characters: the prefix, and 36 bytes in base32 without padding."""
_CHECK_BYTES: Final = 4

_HELP: Final = "make one with `peerfabric keygen FILE` and name it by secret='file:FILE'"


class _Hidden:
    """An object that keeps key material to itself."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not copied or pickled; give other processes the file it came from")


class Secret(_Hidden):
    """The 32 random bytes that the nodes of a fabric share. The fabric's name is part of every key made of them."""

    __slots__ = ("_key", "_key_ids")

    def __init__(self, key: bytes) -> None:
        """Take the 32 bytes; they must be random, since a handshake on the wire lets a phrase be guessed offline."""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"a secret has {KEY_BYTES} bytes, not {len(key)}; {_HELP}")
        self._key = bytes(key)
        self._key_ids: dict[str, str] = {}

    def __repr__(self) -> str:
        """With the key ids that were asked for, which are public; the key itself is never shown."""
        return " ".join(["<secret", *self._key_ids.values()]) + ">"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def text(self) -> str:
        """The one way to write it: what `parse_secret` takes. Only for the file that holds it."""
        coded = base64.b32encode(self._key + _check(self._key)).decode("ascii")
        return SECRET_PREFIX + coded.rstrip("=").lower()

    def gate(self, fabric: str) -> bytes:
        """The secret key of the CURVE server in front of every inbox; its public half is told to nobody."""
        return self._derived(fabric, b"pf1 gate", KEY_BYTES)

    def key_id(self, fabric: str) -> str:
        """The public name of this secret in `fabric`: 8 hexadecimal digits."""
        key_id = self._key_ids.get(fabric)
        if key_id is None:
            key_id = self._key_ids[fabric] = self._derived(fabric, b"pf1 key id", 4).hex()
        return key_id

    def announce_key(self, fabric: str) -> bytes:
        """The key for the MAC of announcements, and for digests of interest."""
        return self._derived(fabric, b"pf1 announce", KEY_BYTES)

    def _derived(self, fabric: str, person: bytes, size: int) -> bytes:
        return blake2b(fabric.encode(), key=self._key, person=person, digest_size=size).digest()


def new_secret(random32: bytes) -> Secret:
    """The secret of 32 bytes, which the caller has drawn at random."""
    return Secret(random32)


def parse_secret(text: str) -> Secret:
    """Read a secret as `Secret.text` writes it, with blanks and line ends around it.

    Raises:
        ConfigError: It is anything else: a phrase, cut off, mistyped. The error does not repeat it.
    """
    text = text.strip()
    if not text.startswith(SECRET_PREFIX):
        raise ConfigError(f"not a secret: it does not begin with {SECRET_PREFIX!r}; {_HELP}")
    if len(text) != SECRET_TEXT_LENGTH:
        raise ConfigError(f"not a secret: {len(text)} characters instead of {SECRET_TEXT_LENGTH}; copy all of it")
    body = text.removeprefix(SECRET_PREFIX)
    try:
        # Decoding is lax about the last bits and about capitals; writing it again is not.
        raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:
        raw = b""
    key, check = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if len(key) != KEY_BYTES or check != _check(key) or Secret(key).text() != text:
        raise ConfigError(f"not a secret: its check does not fit, so it is mistyped or cut; copy it anew, or {_HELP}")
    return Secret(key)


def _check(key: bytes) -> bytes:
    return blake2b(key, digest_size=KEY_BYTES).digest()[:_CHECK_BYTES]


class NodeKey(_Hidden):
    """A node's own 32 random bytes and what is made of them: two pairs of CURVE keys, and the node id.

    All keys are 32 bytes as they are. The node id is the hash of `client_public`, so who has shaken hands as that
    client is the node of that id.
    """

    __slots__ = ("_key", "client_public", "client_secret", "node_id", "outbox_public", "outbox_secret")

    def __init__(self, key: bytes, curve_public: Callable[[bytes], bytes]) -> None:
        """Derive all of it; `curve_public` finds the public key, 32 bytes, of a secret one."""
        if len(key) != KEY_BYTES:
            raise ConfigError(
                f"a node's key has {KEY_BYTES} bytes, not {len(key)}; remove the file to get a new one, "
                f"and with it another node id"
            )
        self._key = bytes(key)
        self.client_secret = self._derived(b"pf1 client")
        self.client_public = curve_public(self.client_secret)
        self.outbox_secret = self._derived(b"pf1 outbox")
        self.outbox_public = curve_public(self.outbox_secret)
        self.node_id = node_id_of(self.client_public)

    def __repr__(self) -> str:
        return f"<key of node {self.node_id}>"

    def reveal(self) -> bytes:
        """The 32 bytes themselves, for the file that keeps them."""
        return self._key

    def _derived(self, person: bytes) -> bytes:
        return blake2b(b"", key=self._key, person=person, digest_size=KEY_BYTES).digest()


def node_id_of(client_public: bytes) -> str:
    """The id of the node whose CURVE client key that is: 32 hexadecimal digits."""
    return blake2b(client_public, person=b"pf1 node id", digest_size=16).hexdigest()
