"""Keys and tokens of the environment, kept out of everything that is written or shown."""

from __future__ import annotations

import os
import re
from pathlib import Path


def secrets() -> list[str]:
    """Values of the environment's variables that are called a key, a token and the like."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= 8 and re.search(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", name)
    ]


def redact(text: str) -> str:
    """*text* without the values of the environment's secrets."""
    for secret in secrets():
        text = text.replace(secret, "[secret]")
    return text


def redact_file(path: Path) -> None:
    """Take the values of the environment's secrets out of a text file, if it is there."""
    known = [secret.encode() for secret in secrets()]
    content = path.read_bytes() if path.is_file() else b""
    if any(secret in content for secret in known):
        for secret in known:
            content = content.replace(secret, b"[secret]")
        path.write_bytes(content)
