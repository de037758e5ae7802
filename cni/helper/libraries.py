"""Makes libraries set themselves up before the helper forks: a call that does it itself takes 3 ms of CPU time more.

Nothing of this is used by a call. docs/adr/0049-what-the-helper-keeps-warm.md lists what is kept, and what is not.
"""

from __future__ import annotations

import ssl

import yaml


def prepare() -> None:
    """Makes a TLS context and decodes a YAML text, and drops both. It opens no file and no connection."""
    # OpenSSL looks its algorithms up for the first context. Its configuration was read when `hashlib` was imported.
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    yaml.load("clusters:\n- {name: none}\n", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
