"""Secrets are masked in whatever is written, and refused in configs.

They are known by the names they have, by their shape, and as values of the environment.
"""

import os
import re
import shlex
import traceback

MASK = "***"

_SECRET_WORDS = {"secret", "password", "passwd", "passphrase", "credential", "credentials", "apikey", "jwt"}
_SECRET_ENDINGS = {"key", "token", "auth", "pat", "pass", "pwd"}
_WELL_KNOWN = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[a-z]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[a-z]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_URL_USER = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+@")
_URL_PASSWORD = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s@:]*:[^/\s@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_HEADER = re.compile(r"(?i)\bauthorization:\s*(?:bearer|basic|token)\s+[\w.~+/=-]{8,}")
_LOGIN = re.compile(r"(?P<command>\bwandb login\b[^;|&\n]*?[\s\"'])[0-9a-f]{20,}\b")
_ASSIGNMENT = re.compile(r"(?P<name>[+~-]*[\w.-]+)(?P<sign>\s*[=:]\s*)(?P<value>\S.*)", re.DOTALL)
_LITERAL = re.compile(r"""(?P<name>[\w.-]+)(?P<sign>["']?\s*[=:]\s*)(?P<value>"[^"\s]{8,}"|'[^'\s]{8,}')""")


def mask_command(command: list[str]) -> str:
    """The command line, quoted for a shell, without the secrets in it."""
    words, hide_next = [], False
    for word in command:
        names_secret = word.startswith("-") and "=" not in word and is_secret_name(word)
        assignment = _ASSIGNMENT.fullmatch(word)
        if hide_next and not word.startswith("-"):
            words.append(MASK)
        elif assignment:
            words.append(mask_text(_mask_assignment(assignment)))
        else:
            words.append(mask_text(word))
        hide_next = names_secret
    return " ".join(word if MASK in word and " " not in word else shlex.quote(word) for word in words)


def mask_text(text: str) -> str:
    """The text without the secrets in URLs, of known shape, after a secret name, or of the environment."""
    for value in secret_values():
        text = text.replace(value, MASK)
    text = _URL_USER.sub(rf"\g<scheme>{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _LOGIN.sub(rf"\g<command>{MASK}", text)
    text = _LITERAL.sub(_mask_assignment, text)
    return _WELL_KNOWN.sub(MASK, text)


def format_error(error: BaseException) -> str:
    """The traceback without secrets: messages of exceptions hold URLs, headers, lines of files."""
    return mask_text("".join(traceback.format_exception(error)))


def holds_secret(text: str, values: list[str]) -> bool:
    """Whether a config value is one: of `secret_values()`, of known shape, or a URL with a password.

    Stricter about evidence than `mask_text`: masking a harmless word costs nothing, refusing it does.
    """
    return (
        any(value in text for value in values)
        or _URL_PASSWORD.search(text) is not None
        or _WELL_KNOWN.search(text) is not None
        or _HEADER.search(text) is not None
        or _LOGIN.search(text) is not None
    )


def is_secret_name(name: str) -> bool:
    """Whether a variable, option or config key of this name holds a secret: WANDB_API_KEY yes, key_dim no."""
    parts = [part for part in re.split(r"[^a-z0-9]+", name.lower()) if part]
    return bool(parts) and (
        bool(_SECRET_WORDS & set(parts))
        or parts[-1] in _SECRET_ENDINGS
        or parts[-1].endswith(("apikey", "token", "secret", "password"))
    )


def _mask_assignment(match: re.Match[str]) -> str:
    if is_secret_name(match["name"]):
        return f"{match['name']}{match['sign']}{MASK}"
    within = _ASSIGNMENT.fullmatch(match["value"])
    return f"{match['name']}{match['sign']}{_mask_assignment(within)}" if within else match[0]


def secret_values() -> list[str]:
    """The secrets of the environment, the longest first."""
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= 8}
    # A secret may be named as a file; the name of a file or folder is none.
    return sorted((value for value in values if not value.startswith("/")), key=len, reverse=True)
