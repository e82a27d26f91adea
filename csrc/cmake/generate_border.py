"""
Write the C source of the extension from `csrc/qflare.h`; run by CMake, never imported by the package.

The header is the only place where prototypes and sizes stand: this file strips what CFFI's parser does not read and
hands the rest over, so Python and C cannot disagree.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cffi

# Functions that only C files call; they stay out of Python's reach.
_BETWEEN_C_FILES = ("qfl_random_watch", "qfl_random_failed", "qfl_random_drawn")


def declarations(header: str) -> str:
    """Reduce the header to what CFFI parses: constants, types and prototypes."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    text = text.replace("\\\n", " ")
    lines: list[str] = []
    depth = 0  # inside #if ... #endif; the include guard is the first level
    for line in text.splitlines():
        stripped = line.strip()
        if re.match(r"#\s*if", stripped):
            depth += 1
            continue
        if re.match(r"#\s*endif", stripped):
            depth -= 1
            continue
        if stripped.startswith("#"):
            constant = re.match(r"#\s*define\s+(QFL_\w+)\s+(\(.*\)|\w+)\s*$", stripped)
            if depth == 1 and constant:
                lines.append(f"#define {constant.group(1)} ...")
            continue
        if depth == 1:
            lines.append(line)
    joined = "\n".join(lines)
    joined = re.sub(r"\b(QFL_API|QFL_MUST_CHECK)\b", "", joined)
    for name in _BETWEEN_C_FILES:
        joined = re.sub(rf"^[\w ]+\b{name}\([^)]*\);", "", joined, flags=re.MULTILINE)
    return joined


def main(header: str, out: str) -> None:
    """Read the header at path *header* and write the extension's C source to path *out*."""
    builder = cffi.FFI()
    builder.cdef(declarations(Path(header).read_text(encoding="utf-8")))
    builder.set_source("qflare._native._qflare", '#include "qflare.h"\n')
    builder.emit_c_code(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
