"""The project's markdown files taken apart: fenced blocks, commands, links, code in the text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
_ENTRY = (["python", "-m", "maskvos.run"], ["maskvos"])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its text without the indentation of a list that it may stand in."""

    language: str
    text: str

    @property
    def file(self) -> Path | None:
        """The file that the block is to be saved as, which a comment at its head names; else None."""
        named = re.match(r"(?:# @package \w+\n)?# ([\w./-]+\.(?:py|yaml))\n", self.text)
        return Path(named[1]) if named else None


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of some languages (all, if none is named), in order."""
    found = []
    for indent, language, body in _FENCE.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if not languages or language in languages:
            found.append(Block(language, "\n".join(lines) + "\n"))
    return found


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def commands(text: str) -> list[list[str]]:
    """The arguments of every command of this project in the shell's blocks, without what stands before them."""
    found = []
    for block in blocks(text, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            parts = [part for part in shlex.split(line, comments=True)]
            while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
                parts = parts[1:]  # variables of the environment
            for entry in _ENTRY:
                if parts[: len(entry)] == entry:
                    found.append(parts[len(entry) :])
    return found


def overrides(command: list[str]) -> list[str]:
    """What a command overrides, without flags of the entrypoint; of a sweep's values only the first ones."""
    left, given = list(command), []
    while left:
        part = left.pop(0)
        if part == "--config-dir":
            given.append(f"hydra.searchpath=[file://{Path(left.pop(0)).absolute()}]")
        elif part == "--cfg":
            left.pop(0)
        elif not part.startswith("-"):
            # As the entrypoint does: a list of runs is no sweep.
            given.append(re.sub(r"^runs=([^'\[].*)$", r"runs='\1'", part))
    return [_first(part) for part in given] if {"-m", "--multirun"} & set(command) else given


def _first(override: str) -> str:
    """The first of the values that are swept over, commas within brackets and quotes aside."""
    depth, quoted = 0, False
    for place, sign in enumerate(override):
        quoted ^= sign == "'"
        depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and depth == 0 and not quoted:
            return override[:place]
    return override


def slug(title: str) -> str:
    """The anchor that a heading gets where the files are usually read."""
    kept = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return kept.replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of all headings."""
    return {slug(title) for title in re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)}


def links(text: str) -> list[str]:
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def code(text: str) -> list[str]:
    """Code within the text."""
    return re.findall(r"`([^`\n]+)`", prose(text))
