"""Code blocks of a Markdown document, with what is hidden in its comments, as steps of one run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_PIECE: Final = re.compile(
    r"^<!-- (?P<comment>sh|sh before|python|python after|not run: [^\n]+?|run elsewhere: [^\n]+?)"
    r"(?:\n(?P<hidden>.*?))? ?-->$"
    r"|^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<code>.*?)^ *```$",
    re.S | re.M,
)
_FILE: Final = re.compile(r"# ((?:[\w-]+/)*[\w-]+\.\w+)\b")
DATA: Final = ("toml", "json")
SHOWN: Final = ("text", "console")
"""What is printed, and no code."""


@dataclass
class Block:
    """One block.

    kind    "file": to be written as `name`; "python", "sh": to be run; "data": to be read; "shown": no code;
            "skipped": not run, for that `reason`; "stray": nobody says what to do with it
    """

    kind: str
    line: int
    text: str
    name: str = ""
    language: str = ""
    after: str = field(default="", repr=False)
    reason: str = ""
    """Why it is not run here."""


def blocks_of(document: str) -> list[Block]:
    """The blocks of a document, in order.

    A block of Python whose first line is `# NAME.py` is a file; other ones are run as a script, and so is what is `sh`.
    Of a comment before a block, `<!-- python …` and `<!-- sh before …` are put before its code;
    `<!-- not run: WHY -->` and `<!-- run elsewhere: TEST -->` leave it out, but for a file, which is written.
    After one, `<!-- python after …` is put behind it, and `<!-- sh …` is run.
    """
    found: list[Block] = []
    before, skipped = "", ""
    for piece in _PIECE.finditer(document):
        line = document.count("\n", 0, piece.start()) + 1
        comment = piece["comment"]
        if comment is None:
            found.append(_block(piece, line, before, skipped))
            before = skipped = ""
        elif comment in ("python", "sh before"):
            before = piece["hidden"] or ""
        elif comment == "python after":
            found[-1].after = piece["hidden"] or ""
        elif comment == "sh":
            found.append(Block("sh", line, piece["hidden"] or ""))
        else:
            skipped = comment
    return found


def _block(piece: re.Match[str], line: int, before: str, skipped: str) -> Block:
    indent, language = len(piece["indent"]), piece["language"]
    code = "".join(part[indent:] if part.strip() else "\n" for part in piece["code"].splitlines(keepends=True))
    named = _FILE.match(code)
    if skipped and not (named and skipped.startswith("run elsewhere")):
        return Block("skipped", line, code, language=language, reason=skipped)
    if named and language in ("python", "sh", "ini", "toml", "typescript", "javascript"):
        return Block("file", line, before + code, named[1], language, reason=skipped)
    if language in ("python", "sh"):
        return Block(language, line, before + code, language=language)
    if language in DATA:
        return Block("data", line, code, language=language)
    return Block("shown" if language in SHOWN else "stray", line, code, language=language)
