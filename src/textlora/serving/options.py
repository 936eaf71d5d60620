"""Where a server listens and whom it answers."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from textlora.errors import UsageError

KEY_VARIABLE = "TEXTLORA_API_KEY"
SHORTEST_KEY = 16
KEY_HINT = f"Make one with `openssl rand -hex 32`, and give it as {KEY_VARIABLE} or in a file with --api-key-file."
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """Where to listen, and who is answered.

    Attributes:
        host: address to listen on.
        port: 0 for any that is free.
        api_key: asked of everybody, or None.
        hosts: names by which the server may be called; empty for any.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: bytes | None = None
    hosts: tuple[str, ...] = LOOPBACK_NAMES

    def __repr__(self) -> str:
        """Return everything but the key."""
        return (
            f"Access(host={self.host!r}, port={self.port}, api_key={'…' if self.api_key else None}, hosts={self.hosts})"
        )


def access(host: str, port: int, *, key_file: Path | None = None, allowed_hosts: tuple[str, ...] = ()) -> Access:
    """Decide who is answered.

    Args:
        host: address to listen on; any but this machine's own needs a key.
        port: to listen on.
        key_file: holds the key; the environment variable ``TEXTLORA_API_KEY`` otherwise.
        allowed_hosts: names by which clients call the server. By default those of this machine itself, so that no
            web page can reach it under a name of its own (DNS rebinding); with a key any name.

    Raises:
        UsageError: there is no key where one is needed, or it is too short.
    """
    key = _read_key(key_file)
    local = is_loopback(host)
    if not local and key is None:
        raise UsageError(f"{host} can be reached from other machines, and there is no API key.", hint=KEY_HINT)
    names = tuple(name.lower() for name in allowed_hosts)
    if "*" in names or (key and not names and not local):
        return Access(host, port, key, ())
    own = (f"[{host}]" if ":" in host else host).lower()
    return Access(host, port, key, tuple(dict.fromkeys((*LOOPBACK_NAMES, own, *names))))


def is_loopback(host: str) -> bool:
    """Return whether only this machine itself can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_key(file: Path | None) -> bytes | None:
    if file is None:
        text, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
    else:
        text, where = _text_of(file), str(file)
    key = text.strip()
    if not key and file is None:
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"The API key in {where} cannot be used; expected {SHORTEST_KEY} or more ASCII characters without spaces.",
            hint=KEY_HINT,
        )
    return key.encode()


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the API key: {error}", hint=KEY_HINT) from error
