"""Makes the modules of foreign protocols from the packages' `api/*.proto`.

`protos.py DIRECTORY` makes them elsewhere.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PLACES = ("deviceplugin/api", "kubevirt/api")


def make(target: Path) -> None:
    """Writes a module and its types for each description. Raises `SystemExit` with protoc's message on stderr."""
    included = resources.files("grpc_tools") / "_proto"
    sources = [str(path.relative_to(ROOT)) for place in PLACES for path in sorted((ROOT / place).glob("*.proto"))]
    options = [f"--proto_path={ROOT}", f"--proto_path={included}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *options, *sources]):
        raise SystemExit(1)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if sys.argv[1:] else ROOT)
