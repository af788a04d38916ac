"""Parse the project's Markdown files: fenced blocks, commands, links, inline code."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

from maskvos.cli.command import is_long_form

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
_ENTRIES = (
    ["python", "-m", "maskvos.run"],
    ["-m", "maskvos.run"],
    ["maskvos"],
    ["scripts/train.sbatch"],
    ["scripts/predict.sbatch"],
)
_LAUNCHERS = ("torchrun", "sbatch")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its text without the indentation of a surrounding list."""

    language: str
    text: str

    @property
    def file(self) -> Path | None:
        """The file to save the block as, named by a comment in its first line; else None."""
        named = re.match(r"(?:# @package \w+\n)?# ([\w./-]+\.(?:py|yaml))\n", self.text)
        return Path(named[1]) if named else None


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of the given languages (by default all), in order."""
    found = []
    for indent, language, body in _FENCE.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if not languages or language in languages:
            found.append(Block(language, "\n".join(lines) + "\n"))
    return found


def code_blocks(text: str) -> list[str]:
    """The Python blocks of a reStructuredText file, in order."""
    found = re.findall(r"^\.\. code-block:: python\n\n((?:(?:   .*)?\n)+)", text, flags=re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def commands(text: str) -> list[list[str]]:
    """The arguments of every command with settings in shell blocks, also of those started by torchrun or sbatch."""
    found = []
    for block in blocks(text, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            parts = shlex.split(line, comments=True)
            while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
                parts = parts[1:]  # environment variables
            for entry in _ENTRIES:
                place = next((i for i in range(len(parts)) if parts[i : i + len(entry)] == entry), None)
                if place is not None and (place == 0 or parts[0] in _LAUNCHERS):
                    arguments = parts[place + len(entry) :]
                    if entry != ["maskvos"] or is_long_form(arguments):
                        found.append(arguments)
                    break
    return found


def overrides(command: list[str]) -> list[str]:
    """The overrides of a command, without Hydra's flags; of the values of a sweep only the first."""
    left, given = list(command), []
    while left:
        part = left.pop(0)
        if part == "--config-dir":
            given.append(f"hydra.searchpath=[file://{Path(left.pop(0)).absolute()}]")
        elif part == "--cfg":
            left.pop(0)
        elif not part.startswith("-"):
            given.append(part)
    return [_first(part) for part in given] if {"-m", "--multirun"} & set(command) else given


def _first(override: str) -> str:
    """The first value of a sweep; commas within brackets and quotes do not separate values."""
    depth, quoted = 0, False
    for place, sign in enumerate(override):
        quoted ^= sign == "'"
        depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and depth == 0 and not quoted:
            return override[:place]
    return override


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return kept.replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of all headings."""
    return {slug(title) for title in re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)}


def links(text: str) -> list[str]:
    """The targets of all links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def code(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(text))
