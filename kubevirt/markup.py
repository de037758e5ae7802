"""XML whose elements know their positions in the text, so that a change leaves all other bytes unchanged. Pure.

A program that parses and writes a document loses everything that its parser does not keep: comments, quotes, order,
elements of other programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from cni.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LARGEST = 1 << 20
"""The maximum size of a document, in bytes. A domain of KubeVirt has some thousands."""
MOST_ELEMENTS = 20_000
"""The elements are in memory, and KubeVirt limits the sidecar of a machine with dedicated CPUs to 64 MB."""
DEEPEST = 64
"""The maximum number of levels of elements. A domain has about ten."""


class Element:
    """An element and its place: the tag is from `start` to `inner`, and the closing tag from `close` to `end`.

    All are positions in the bytes. For `<a/>` the last three are equal.
    """

    __slots__ = ("attributes", "children", "close", "end", "inner", "name", "start", "text")

    def __init__(self, name: str, attributes: Mapping[str, str], start: int, inner: int) -> None:
        self.name = name
        self.attributes = attributes
        self.start, self.inner = start, inner
        self.close = self.end = inner
        self.children: list[Element] = []
        self.text = ""

    def all(self, *path: str) -> Iterator[Element]:
        """The elements below this one with these names on the way, in the order of the text."""
        for child in self.children:
            if child.name == path[0]:
                if len(path) == 1:
                    yield child
                else:
                    yield from child.all(*path[1:])

    def first(self, *path: str) -> Element | None:
        return next(self.all(*path), None)

    @property
    def is_empty_tag(self) -> bool:
        return self.inner == self.end


class Document:
    """A text and its root element. `changed` applies all noted changes at once."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.root = _Reader(text).root
        self._edits: list[tuple[int, int, bytes]] = []

    def replace(self, start: int, end: int, text: bytes) -> None:
        self._edits.append((start, end, text))

    def bytes_of(self, element: Element) -> bytes:
        return self.text[element.start : element.end]

    def indent(self, element: Element) -> bytes:
        """The line break and the blanks before an element; empty if it is not the first on its line."""
        return _indent_before(self.text, element.start)

    def put_after(self, element: Element, text: bytes, indent: bytes) -> None:
        self.replace(element.end, element.end, indent + text)

    def put_before(self, element: Element, text: bytes) -> None:
        self.replace(element.start, element.start, text + self.indent(element))

    def child_indent(self, parent: Element) -> bytes:
        """The line break and the blanks for a new child of the parent."""
        indent = self.indent(parent)
        return indent + step_of(indent) if indent else b""

    def put_first(self, parent: Element, texts: Iterable[bytes]) -> None:
        """Puts elements before all others of the parent, each on its own line if the parent is the first on a line."""
        indent = self.indent(parent)
        inside = b"".join(self.child_indent(parent) + text for text in texts)
        if not inside:
            return
        if parent.is_empty_tag:
            # A closing tag replaces the slash.
            slash = self.text.rindex(b"/", parent.start, parent.end)
            self.replace(slash, parent.end, b">" + inside + indent + f"</{parent.name}>".encode())
        elif not self.text[parent.inner : parent.close].strip():
            self.replace(parent.inner, parent.close, inside + indent)
        else:
            self.replace(parent.inner, parent.inner, inside)

    def add_attribute(self, element: Element, name: str, value: str) -> None:
        end = element.inner - (2 if element.is_empty_tag else 1)
        while self.text[end - 1 : end].isspace():
            end -= 1
        self.replace(end, end, f" {name}={quoteattr(value)}".encode())

    def changed(self) -> bytes:
        """The text with all changes. Changes at one position are in the order in which they were noted."""
        parts, position = [], 0
        for start, end, text in sorted(self._edits, key=lambda edit: edit[:2]):
            parts += [self.text[position:start], text]
            position = end
        return b"".join([*parts, self.text[position:]])


def step_of(indent: bytes) -> bytes:
    """The additional indentation of a child: KubeVirt uses tabs, libvirt two blanks."""
    return b"\t" if indent.endswith((b"\t", b"\n")) else b"  "


def tag(
    name: str, attributes: Mapping[str, object] | None = None, inner: Iterable[bytes] = (), indent: bytes = b""
) -> bytes:
    """An element. With an `indent` (see `Document.indent`) its children are on separate lines."""
    head = name + "".join(f" {key}={quoteattr(str(value))}" for key, value in (attributes or {}).items())
    children = list(inner)
    if not children:
        return f"<{head}/>".encode()
    step = indent + step_of(indent) if indent else b""
    return f"<{head}>".encode() + b"".join(step + child for child in children) + indent + f"</{name}>".encode()


def _indent_before(text: bytes, start: int) -> bytes:
    line = text.rfind(b"\n", 0, start)
    blanks = text[line:start]
    return blanks if line >= 0 and not blanks.strip() else b""


class _Reader:
    """Reads a document into elements. Raises `InvalidConfig` for invalid XML, and for a document type."""

    def __init__(self, text: bytes) -> None:
        if len(text) > LARGEST:
            raise InvalidConfig(f"the domain has {len(text)} bytes, and {LARGEST} are the most that is read")
        self._text = text
        self._open: list[Element] = []
        self._count = 0
        self._root: Element | None = None
        self._parser = expat.ParserCreate("UTF-8")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse
        try:
            self._parser.Parse(text, True)
        except expat.ExpatError as error:
            raise InvalidConfig(f"the domain is not XML: {error}") from error

    @property
    def root(self) -> Element:
        if self._root is None:
            raise InvalidConfig("the domain has no element")
        return self._root

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= DEEPEST:
            raise InvalidConfig(f"the domain has more than {DEEPEST} levels of elements")
        self._count += 1
        if self._count > MOST_ELEMENTS:
            raise InvalidConfig(f"the domain has more than {MOST_ELEMENTS} elements")
        start = self._parser.CurrentByteIndex
        element = Element(name, attributes, start, _tag_end(self._text, start))
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        if self._text[element.inner - 2 : element.inner] == b"/>":
            return
        element.close = self._parser.CurrentByteIndex
        element.end = self._text.index(b">", element.close) + 1

    def _characters(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text

    def _refuse(self, *_doctype: object) -> None:
        # A document type defines entities, which can read files or grow without limit.
        raise InvalidConfig("the domain has a document type declaration, which is not read")


def _tag_end(text: bytes, start: int) -> int:
    """The position after the `>` of the tag at `start`. A `>` in quotes does not end the tag."""
    position = start
    while True:
        position += 1
        character = text[position : position + 1]
        if character in (b'"', b"'"):
            position = text.index(character, position + 1)
        elif character == b">":
            return position + 1
