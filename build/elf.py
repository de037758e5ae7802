"""Which glibc an ELF file needs, and where it looks for libraries.

The former is in its version-needs section (gABI "Symbol Versioning", `.gnu.version_r`; `.gnu.version` gives each symbol
the index of its version), the latter in its dynamic section. Raises `ValueError` for a file that is no 64-bit
little-endian ELF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_SHT_DYNAMIC = 6
_SHT_DYNSYM = 11
_SHT_GNU_VERNEED = 0x6FFFFFFE
_SHT_GNU_VERSYM = 0x6FFFFFFF
_DT_RPATH, _DT_RUNPATH = 15, 29
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEED = struct.Struct("<HHIII")
_NEED_VERSION = struct.Struct("<IHHII")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_VERSION_INDEX = struct.Struct("<H")
_UNDEFINED = 0
_ANY_VERSION = 1  # VER_NDX_GLOBAL: the loader takes the symbol's oldest version


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


def drop_symbol_version(path: Path, symbol: str, version: str) -> None:
    """Lets the loader take the oldest version of a library's symbol, where the file asks for this newer one.

    If no other symbol asks for that version of that library, the file does not need it any more. Raises `ValueError`
    where the library would be left without any version.
    """
    elf = bytearray(path.read_bytes())
    sections = _sections(bytes(elf))
    tables = [one for one in sections if one.kind == _SHT_GNU_VERSYM]
    needs = [one for one in sections if one.kind == _SHT_GNU_VERNEED]
    if not tables or not needs:
        return
    symbols = sections[tables[0].link]
    for number, name in enumerate(_undefined(bytes(elf), symbols, sections[symbols.link].offset)):
        place = tables[0].offset + number * _VERSION_INDEX.size
        (index,) = _VERSION_INDEX.unpack_from(elf, place)
        if name == symbol and _version_of(bytes(elf), needs[0], sections, index) == version:
            _VERSION_INDEX.pack_into(elf, place, _ANY_VERSION)
            if index not in _indices(bytes(elf), tables[0]):
                _drop_need(elf, needs[0], index)
            path.write_bytes(elf)


def _undefined(elf: bytes, symbols: _Section, strings: int) -> list[str]:
    """The names of all dynamic symbols, in their order; empty for those that the file defines itself."""
    rows = _SYMBOL.iter_unpack(elf[symbols.offset : symbols.offset + symbols.size])
    return [_string(elf, strings + row[0]) if row[3] == _UNDEFINED else "" for row in rows]


def _indices(elf: bytes, table: _Section) -> set[int]:
    rows = _VERSION_INDEX.iter_unpack(elf[table.offset : table.offset + table.size])
    return {index for (index,) in rows}


def _version_of(elf: bytes, section: _Section, sections: list[_Section], index: int) -> str:
    strings = sections[section.link].offset
    rows = [row for _need, chain in _needs(elf, section) for _place, row in chain]
    return next((_string(elf, strings + row[3]) for row in rows if row[2] == index), "")


def _drop_need(elf: bytearray, section: _Section, index: int) -> None:
    """Takes the version with that index out of the chain of its library."""
    for need, chain in _needs(bytes(elf), section):
        places = [place for place, row in chain if row[2] != index]
        if len(places) == len(chain):
            continue
        if not places:
            raise ValueError("the library would be needed in no version")
        version, _count, library, _first, step = _NEED.unpack_from(elf, need)
        _NEED.pack_into(elf, need, version, len(places), library, places[0] - need, step)
        rows = dict(chain)
        for place, following in zip(places, [*places[1:], None], strict=True):
            _NEED_VERSION.pack_into(elf, place, *rows[place][:4], following - place if following else 0)


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
    return [_string(elf, strings + row[3]) for _need, chain in _needs(elf, section) for _place, row in chain]


def _needs(elf: bytes, section: _Section) -> list[tuple[int, list[tuple[int, tuple[int, ...]]]]]:
    """One entry per library: its offset, and the offset and the fields of each version that is needed of it.

    All links in the file are offsets from the entry itself.
    """
    found = []
    need = section.offset
    for _ in range(section.info):
        _version, count, _library, first, step = _NEED.unpack_from(elf, need)
        place, chain = need + first, []
        for _ in range(count):
            row = _NEED_VERSION.unpack_from(elf, place)
            chain.append((place, row))
            place += row[4]
        found.append((need, chain))
        need += step
    return found


def _string(elf: bytes, start: int) -> str:
    return elf[start : elf.index(b"\0", start)].decode()
