"""Which glibc an ELF file needs, and where it looks for libraries.

The former is in its version-needs section (gABI "Symbol Versioning", `.gnu.version_r`), the latter in its dynamic section.
Raises `ValueError` for a file that is no 64-bit little-endian ELF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_SHT_DYNAMIC = 6
_SHT_GNU_VERNEED = 0x6FFFFFFE
_DT_RPATH, _DT_RUNPATH = 15, 29
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEED = struct.Struct("<HHIII")
_NEED_VERSION = struct.Struct("<IHHII")
_DYNAMIC = struct.Struct("<qQ")


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


def run_paths(path: Path) -> list[str]:
    """The directories, as written in the file, in which the loader looks for its libraries before the system's own."""
    elf = path.read_bytes()
    sections = _sections(elf)
    return [
        _string(elf, sections[section.link].offset + value)
        for section in sections
        if section.kind == _SHT_DYNAMIC
        for tag, value in _entries(elf, section)
        if tag in (_DT_RPATH, _DT_RUNPATH)
    ]


def drop_run_paths(path: Path) -> None:
    """Lets the loader look for the file's libraries as for those of any other program."""
    elf = bytearray(path.read_bytes())
    for section in _sections(bytes(elf)):
        if section.kind == _SHT_DYNAMIC:
            kept = [entry for entry in _entries(bytes(elf), section) if entry[0] not in (_DT_RPATH, _DT_RUNPATH)]
            packed = b"".join(_DYNAMIC.pack(*entry) for entry in kept)
            elf[section.offset : section.offset + section.size] = packed.ljust(section.size, b"\0")  # DT_NULL
    path.write_bytes(elf)


def _entries(elf: bytes, section: _Section) -> list[tuple[int, int]]:
    return list(_DYNAMIC.iter_unpack(elf[section.offset : section.offset + section.size]))


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
