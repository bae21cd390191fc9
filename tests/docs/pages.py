"""The documentation as data: its pages with their fenced blocks, headings, links, code spans and tables.

A comment `<!-- needs: docker -->` on the line before a block marks it as not runnable on every test machine; `NEEDS`
lists the permitted reasons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CELL_LEVEL = 3  # nesting around a cell: table, section, row
MARKER = re.compile(r"<!--\s*needs:\s*(?P<reason>[a-z][a-z ]*?)\s*-->\s*")
# What a block may need, and the pattern that proves it.
NEEDS = {
    "the network": re.compile(r"\b(pip|apt-get|ssh|make (dev|test|setup|bench|capacity|chaos|soak|test-\w+))\b"),
    "systemd": re.compile(r"\b(systemctl|systemd-\w+|journalctl)\b"),
    "docker": re.compile(r"\bdocker\b"),
    "root": re.compile(r"\bsudo\b"),
    "prometheus": re.compile(r"\b(promtool|prometheus)\b"),
    "a hosted redis": re.compile(r"\b(rediss?://|redis-cli|check)"),
    "the backend": re.compile(r"\b(npm|node|backend)\b"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is the line of its fence, `needs` the requirement that keeps it from running in tests."""

    language: str
    text: str
    line: int
    needs: str | None = None


@dataclass(slots=True)
class Page:
    """One page, parsed once."""

    name: str
    folder: Path
    text: str
    blocks: list[Block] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    tables: list[list[tuple[str, ...]]] = field(default_factory=list)

    @property
    def rows(self) -> Iterator[tuple[str, ...]]:
        """The rows of all tables, header rows included."""
        return chain.from_iterable(self.tables)

    @property
    def code(self) -> Iterator[str]:
        """All code, inline and in blocks; diagrams are not code."""
        yield from self.spans
        yield from (block.text for block in self.blocks if block.language != "mermaid")


def parse_page(file: Path) -> Page:
    page = Page(str(file.relative_to(ROOT)), file.parent, file.read_text(encoding="utf-8"))
    tokens = MarkdownIt("commonmark").enable("table").parse(page.text)
    slugs: Counter[str] = Counter()
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence":
            page.blocks.append(_block(before, token))
        elif token.type == "inline":
            _add_inline(page, token)
            if before is not None and before.type == "heading_open":
                slug = slug_of("".join(child.content for child in token.children or ()))
                page.anchors.append(f"{slug}-{slugs[slug]}" if slugs[slug] else slug)
                slugs[slug] += 1
    page.tables = list(_tables(tokens))
    return page


def _block(before: Token | None, token: Token) -> Block:
    marker = MARKER.fullmatch(before.content) if before is not None and before.type == "html_block" else None
    assert token.map is not None
    return Block(token.info.strip(), token.content, token.map[0] + 1, marker["reason"] if marker else None)


def _add_inline(page: Page, inline: Token) -> None:
    for child in inline.children or ():
        if child.type == "code_inline":
            page.spans.append(child.content)
        elif child.type == "link_open":
            page.links.append(str(child.attrs["href"]))


def _tables(tokens: Sequence[Token]) -> Iterator[list[tuple[str, ...]]]:
    table: list[tuple[str, ...]] = []
    row: list[str] = []
    for token in tokens:
        if token.type == "tr_open":
            row = []
        elif token.type == "inline" and token.level > CELL_LEVEL:
            row.append(token.content)
        elif token.type == "tr_close":
            table.append(tuple(row))
        elif token.type == "table_close":
            yield table
            table = []


def slug_of(heading: str) -> str:
    """The anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


PAGES = {page.name: page for page in map(parse_page, FILES)}
