"""Which glibc an ELF file needs: reads its version-needs section (gABI "Symbol Versioning", `.gnu.version_r`).

Raises `ValueError` for a file that is no 64-bit little-endian ELF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_SHT_GNU_VERNEED = 0x6FFFFFFE
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEED = struct.Struct("<HHIII")
_NEED_VERSION = struct.Struct("<IHHII")


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def is_elf(path: Path) -> bool:
    """Whether the file begins like an ELF file."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def needed_glibc(path: Path) -> tuple[int, ...]:
    """The highest GLIBC_x.y[.z] that the file's dynamic symbols ask for, as numbers; empty when none does."""
    versions = [
        name.removeprefix("GLIBC_") for name in _needed_versions(path.read_bytes()) if name.startswith("GLIBC_")
    ]
    # GLIBC_PRIVATE and the like name no version.
    return max((tuple(map(int, text.split("."))) for text in versions if text[0].isdigit()), default=())


def _needed_versions(elf: bytes) -> list[str]:
    sections = _sections(elf)
    return [
        name
        for section in sections
        if section.kind == _SHT_GNU_VERNEED
        for name in _version_names(elf, section, sections[section.link].offset)
    ]


def _sections(elf: bytes) -> list[_Section]:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    header = _FILE_HEADER.unpack_from(elf)
    offset, size, count = header[6], header[11], header[12]
    return [_Section(*_SECTION.unpack_from(elf, offset + index * size)) for index in range(count)]


def _version_names(elf: bytes, section: _Section, strings: int) -> list[str]:
    """One entry per library, each with a chain of versions; all links are offsets from the entry itself."""
    names = []
    need = section.offset
    for _ in range(section.info):
        _version, count, _library, first, step = _NEED.unpack_from(elf, need)
        entry = need + first
        for _ in range(count):
            _hash, _flags, _other, name, next_entry = _NEED_VERSION.unpack_from(elf, entry)
            names.append(_string(elf, strings + name))
            entry += next_entry
        need += step
    return names


def _string(elf: bytes, start: int) -> str:
    return elf[start : elf.index(b"\0", start)].decode()
