"""LLVM IR as text, without what says nothing of the function: comments, metadata, attributes, alignment."""

import re

_COMMENT = re.compile(r'^((?:[^;"\n]|"[^"\n]*")*);.*$', re.MULTILINE)
_METADATA = re.compile(r",?\s*!\w+(?:\.\w+)*\s+!\d+")
_ATTRIBUTES = re.compile(r"^attributes #\d+ = .*$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n\s*\n+")
_GROUP = re.compile(r" #\d+\b")
_ALIGNMENT = re.compile(r",? align \d+")
_DEFINE = re.compile(r'^define [^@]*@("[^"]+"|[\w.$-]+)\(.*?^\}', re.MULTILINE | re.DOTALL)


def canonicalize_ir(text: str) -> str:
    """Without comments, debug metadata, attribute groups and empty lines."""
    text = _COMMENT.sub(r"\1", text)
    text = _ATTRIBUTES.sub("", _METADATA.sub("", text))
    return _EMPTY_LINES.sub("\n", text).strip()


def read_ir(text: str) -> dict[str, str]:
    """The functions that a module defines, by name, each without references to attributes and alignments."""
    found = {}
    for match in _DEFINE.finditer(canonicalize_ir(text)):
        lines = _ALIGNMENT.sub("", _GROUP.sub("", match[0])).splitlines()
        found[match[1].strip('"')] = "\n".join(line.rstrip() for line in lines)
    return found
