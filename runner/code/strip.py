"""Binaries without the names that a linker needs and a stripped program has lost."""

import re

_ASM_NAME = re.compile(r"\s*<[^>\n]*>")
_IR_GLOBAL = re.compile(r'@(?!llvm\.)("[^"]*"|[\w.$-]+)')
_IR_TYPE = re.compile(r'%(struct|union|class)\.("[^"]*"|[\w.$-]+)|%"(struct|union)\.[^"]*"')


def strip_asm(text: str) -> str:
    """Without anything in angle brackets: symbols called or used, and what kind of data was meant."""
    return _ASM_NAME.sub("", text)


def strip_ir(text: str) -> str:
    """Functions, variables and types are called @ and %struct or %union; LLVM's intrinsics keep their names."""
    return _IR_TYPE.sub(lambda match: f"%{match[1] or match[3]}", _IR_GLOBAL.sub("@", text))
