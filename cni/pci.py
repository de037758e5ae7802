"""PCI addresses in the kernel's format: `dddd:bb:dd.f`, hexadecimal, lower case."""

from __future__ import annotations

_HEX = "0123456789abcdef"


class PciAddress(str):
    """A PCI address in canonical form; created only by `parse`, so that it is safe as a file name."""

    __slots__ = ()


def parse(text: str) -> PciAddress:
    """The address in canonical form; a missing domain is 0000. Raises `ValueError`."""
    lowered = text.lower()
    parts = lowered.split(":")
    if len(parts) == 2:
        parts.insert(0, "0000")
    device, dot, function = parts[-1].partition(".")
    fields = [*parts[:2], device, function]
    if len(parts) != 3 or not dot or [len(field) for field in fields[1:]] != [2, 2, 1]:
        raise ValueError(f"{text!r} is not a PCI address such as 0000:af:06.0")
    if not 4 <= len(fields[0]) <= 8 or any(char not in _HEX for field in fields for char in field) or function > "7":
        raise ValueError(f"{text!r} is not a PCI address such as 0000:af:06.0")
    return PciAddress(f"{fields[0]}:{fields[1]}:{device}.{function}")
