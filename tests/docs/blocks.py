"""Pages of Markdown: their blocks, and what each shows that it prints. The conventions are in CONTRIBUTING.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
RUN = ("sql", "python", "console")
NOT_RUN = ("text", "sh", "markdown")

_FENCE = re.compile(r"^```(\w*)$")
_HIDDEN = re.compile(rf"^<!-- ({'|'.join(RUN)})$")
_NEEDS = re.compile(r"^<!-- needs: (.*) -->$")


@dataclass
class Block:
    """Lines of a page between two fences, or in a comment that readers do not see. first: where, counted from 0."""

    language: str
    first: int
    lines: list[str]
    hidden: bool = False
    shown: Block | None = None
    """The block of text that follows directly: what this one prints."""

    @property
    def end(self) -> int:
        """The line of the closing fence."""
        return self.first + len(self.lines)


@dataclass
class Page:
    name: str
    text: str

    @property
    def needs(self) -> tuple[str, ...]:
        """What the page's first lines say that its blocks need: features of a server, or 'empty', a database without
        pgcache."""
        found = [_NEEDS.match(line) for line in self.text.splitlines()]
        return tuple(name for match in found if match for name in match[1].split(", "))

    @property
    def blocks(self) -> list[Block]:
        blocks: list[Block] = []
        inside: Block | None = None
        before: Block | None = None  # what a block of text would belong to
        for number, line in enumerate(self.text.splitlines()):
            if inside is None:
                if found := _FENCE.match(line) or _HIDDEN.match(line):
                    inside = Block(found[1], number + 1, [], hidden=line.startswith("<"))
                elif line.strip():
                    before = None
            elif line == ("-->" if inside.hidden else "```"):
                if inside.language == "text" and before:
                    before.shown = inside
                blocks.append(inside)
                before = inside if inside.language in ("sql", "python") and not inside.hidden else None
                inside = None
            else:
                inside.lines.append(line)
        assert inside is None, f"{self.name}:{inside.first}: the block does not end"
        return blocks


def pages() -> list[Page]:
    paths = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
    return [Page(path.relative_to(PROJECT).as_posix(), path.read_text()) for path in paths]


def matches(shown: str, printed: str) -> bool:
    """Whether the two are the same but for `...`, which stands for any text in a line or, alone, for any lines.

    Where there is such a text, tables may be wider or narrower: runs of blanks, and of dashes, count as one.
    """
    if "..." not in shown:
        return shown == printed
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "..." else re.escape(line).replace(re.escape("..."), ".*") + r"\n"
        for line in _squeezed(shown).split("\n")
    )
    return re.fullmatch(pattern, _squeezed(printed) + "\n") is not None


def _squeezed(text: str) -> str:
    return re.sub(r"-{2,}", "--", re.sub(r" +(\n|$)", r"\1", re.sub(r" {2,}", " ", text)))
