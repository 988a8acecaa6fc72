"""What is code, what is a function, and which comment belongs to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.code.comments import clean_comment, find_comment
from runner.code.functions import find_functions
from runner.code.lexer import lex, without_comments


def names(text):
    return [function.name for function in find_functions(lex(text))]


def test_the_lexer_blanks_what_is_no_code():
    text = """int a; /* one " */ char *s = "/* no */ \\" {"; // two { \\
 goes on
#define X(a) { 'x' /* three
 spans lines */ more \\
 of it
char c = '"'; char d = '\\''; int b;
"""
    source = lex(text)
    assert len(source.code) == len(text)
    assert [i for i, c in enumerate(source.code) if c == "\n"] == [i for i, c in enumerate(text) if c == "\n"]
    assert "".join(source.code.split()) == "inta;char*s=;charc=;chard=;intb;"
    spans = [text[c.start : c.end] for c in source.comments]
    assert spans == ['/* one " */', "// two { \\\n goes on", "/* three\n spans lines */"]
    assert [c.is_block for c in source.comments] == [True, False, True]


@pytest.mark.parametrize(
    "text", ["/* open", '"open', "'", "// open", "#define X /* open", "#if", "x\\", "#error don't\nint a;"]
)
def test_what_does_not_end_is_no_error(text):
    assert len(lex(text).code) == len(text)
    assert names(text) == []


@given(st.text(alphabet="ab(){};,*=/\"'\\\n #", max_size=60))
def test_any_text_is_lexed_at_its_length(text):
    source = lex(text)
    assert len(source.code) == len(text)
    for function in find_functions(source):
        assert 0 <= function.start < function.body < function.end <= len(text)
        assert source.code[function.body] == "{"
    for comment in source.comments:
        assert text[comment.start : comment.start + 2] in ("/*", "//")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int f(void) { return 1; }", ["f"]),
        ("static const char *f(int a, int (*g)(int)) {}", ["f"]),
        ("int\nf(a, b)\n  int a;\n  char *b;\n{ return a; }", ["f"]),
        ("local int f(strm, cb)\nz_streamp strm;\nint (*cb)(int);\n{}\nint g(void) {}", ["f", "g"]),
        ("LUA_API int (lua_f) (lua_State *L) {}", ["lua_f"]),
        ("void (*signal(int sig, void (*func)(int)))(int) {}", ["signal"]),
        ("__attribute__((noreturn, format(printf, 1, 2))) void f(char *a, ...) {}", ["f"]),
        ("void f(int a) __attribute__((cold)) {}", ["f"]),
        ("int f(int a) NOEXCEPT {}", ["f"]),
        ("struct s { int a; };\nstruct s *f(struct s *x) {}", ["f"]),
        ("int a[] = { 1, 2 };\nint (*t[])(int) = { f };\nint g(int x) {}", ["g"]),
        ("int f(int x) A B;\nint g(int y) {}", ["g"]),
        ('extern "C" {\nint f(void) {}\nint g(void) {}\n}\nint h(void) {}', ["f", "g", "h"]),
        ("MACRO(x) {}\nint f(void) {}", ["f"]),
        ("enum e { A, B };\ntypedef union { int x; } u;\nint f(void) {}", ["f"]),
        ("int f(void) {\n#if A\n  if (x) {\n#else\n  while (y) {\n#endif\n  }\n}\nint g(void) {}", ["f", "g"]),
        ("int f(void);\nint g(void) { if (a) { b(); } else { c(); } }", ["g"]),
        ("#define F(x) int x(void) {\nint g(void) { char c = '}'; return \"}\"[0]; }\nint h(void) {}", ["g", "h"]),
        ("if (x) { }\nelse { }\n", []),
        ("", []),
    ],
)
def test_functions_are_found(text, expected):
    assert names(text) == expected


def test_a_function_is_its_text_without_comments():
    text = "/* Above. */\nstatic int\nf(int a) /* in */ {\n  // all of it\n\n  return a; /* out */\n}\nint x;\n"
    source = lex(text)
    (function,) = find_functions(source)
    assert without_comments(source, function.start, function.end) == "static int\nf(int a)   {\n  return a;\n}"
    assert source.text[function.body] == "{" and source.text[function.end - 1] == "}"


@pytest.mark.parametrize(
    ("above", "found"),
    [
        ("/* Adds. */\n", "/* Adds. */"),
        ("/* Adds. */\n\n", "/* Adds. */"),
        ("/* Adds. */\n\n\n", ""),
        ("// one\n// two\n", "// one\n// two"),
        ("// far\n\n// one\n  // two\n", "// one\n  // two"),
        ("/* block */\n// one\n", "// one"),
        ("int x; // of x\n", ""),
        ("int x; // of x\n// of f\n", "// of f"),
        ("/* Adds. */\n#if A\n", ""),
        ("#define A 1 /* of A */\n", ""),
        ("/* Adds. */ int x;\n", ""),
        ("", ""),
    ],
)
def test_the_comment_above(above, found):
    source = lex(f"{above}int f(void) {{}}")
    (function,) = find_functions(source)
    assert find_comment(source, function.start) == found


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("/* Swap the bytes in a word. */", "Swap the bytes in a word."),
        ("/**\n * @brief Swap the bytes.\n *\n * Twice is\n * once.\n */", "Swap the bytes. Twice is once."),
        ("// Swap the bytes\n// in a word", "Swap the bytes in a word"),
        (
            "/*!\n * f:\n * @a: a word\n *   of bytes\n *\n * Swap the bytes in it.\n *\n * Returns: a word\n */",
            "Swap the bytes in it.",
        ),
        ("/* Swap the bytes in it.\n @param a a word\n more of a\n @return a word */", "Swap the bytes in it."),
        ("/*-----------*\n * Swap the bytes in a word.\n *-----------*/", "Swap the bytes in a word."),
        ("/* ===================\n * Helpers for the list\n * =================== */", ""),
        ("/* Copyright 2001 by somebody or other */", ""),
        ("/* SPDX-License-Identifier: MIT, not prose */", ""),
        ("/* Too short */", ""),
        ("/* f() */", ""),
        ("/* a b c d e f g */", ""),
        ("/* " + "words in here " * 90 + "*/", "words in here " * 42 + "words in"),
        ("/* The newline is\n \\n or \\r\\n here */", "The newline is \\n or \\r\\n here"),
    ],
)
def test_comments_become_prose(comment, text):
    assert clean_comment(comment, "f") == text
