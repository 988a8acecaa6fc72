"""What objdump prints of an object file, as text per function without what only its layout decides.

The format: Intel syntax; jumps inside a function go to L<decimal offset>; what a relocation names is in angle brackets,
as the operand of a call and behind any other instruction: <str> for read-only data, <data> for other data,
<fn> for a function known by its section only, else <symbol>.
"""

import re

OBJDUMP_FLAGS = ("-dr", "--no-show-raw-insn", "-M", "intel")
MIN_INSTRUCTIONS = 5

_HEADER = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\t(.+)$")
_RELOCATION = re.compile(r"^\s+[0-9a-f]+: R_\w+\s+(\S+)$")
_ADDEND = re.compile(r"[+-]0x[0-9a-f]+$")
_TARGET = re.compile(r"^(\S.*?) [0-9a-f]+ <(.+?)(?:\+0x([0-9a-f]+))?>$")
_PADDING = re.compile(r"^(?:(?:cs|data16|addr32|es|ds) )*(?:nop\w*|xchg ax,ax)\b|^(?:data16|cs)$")
_SECTIONS = ((".rodata", "str"), (".LC", "str"), (".text", "fn"), (".data", "data"), (".bss", "data"), (".t", "data"))


def read_objdump(text: str) -> dict[str, str]:
    """Functions by name, one instruction a line; those of fewer than five are left out.

    What compilers split off or cloned (f.cold, f.part.0, f.constprop.1) belongs to the function.
    """
    functions: dict[str, list[str]] = {}
    lines: list[str] = []
    padding = False
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = functions.setdefault(base_name(header[1]), [])
        elif found := _INSTRUCTION.match(line):
            instruction = " ".join(found[1].partition("#")[0].split())
            padding = _PADDING.match(instruction) is not None
            if not padding:
                lines.append(_name_target(instruction))
        elif (found := _RELOCATION.match(line.expandtabs(1))) and lines and not padding:
            lines[-1] = _relocate(lines[-1], found[1])
    return {name: "\n".join(lines) for name, lines in functions.items() if len(lines) >= MIN_INSTRUCTIONS}


def base_name(symbol: str) -> str:
    """f of f.part.0; a leading dot stays."""
    return symbol[:1] + symbol[1:].partition(".")[0]


def _name_target(instruction: str) -> str:
    """`je 53 <f+0x53>` as `je L83`, `call 0 <f>` as `call <f>`."""
    if not (match := _TARGET.match(instruction)):
        return instruction
    mnemonic, symbol, offset = match.groups()
    if mnemonic.endswith("call"):
        return f"{mnemonic} <{base_name(symbol)}>"
    return f"{mnemonic} L{int(offset or '0', 16)}"


def _relocate(instruction: str, target: str) -> str:
    """The instruction with the name of what its relocation refers to."""
    symbol = _ADDEND.sub("", target)
    name = next((kind for section, kind in _SECTIONS if symbol.startswith(section)), base_name(symbol))
    mnemonic, _, operand = instruction.partition(" ")
    # The operand of a call or jump that is to be linked is a placeholder.
    if operand.startswith(("<", "L")) and (mnemonic == "call" or mnemonic.startswith("j")):
        return f"{mnemonic} <{name}>"
    return f"{instruction} <{name}>"
