"""Every tokenizer keeps the contract; what each makes of code is checked by hand and against golden ids."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ConfigError, DataError
from runner.schema import build
from runner.tokenizers.bpe import load_bpe, train_bpe
from runner.tokenizers.byte_hash import ByteHashTokenizer
from runner.tokenizers.choice import TokenizerOptions, build_tokenizer
from runner.tokenizers.pretrained import load_pretrained_tokenizer
from runner.tokenizers.tokenizer import encode_all
from runner.tokenizers.words import split_text
from tests.golden import load_golden

SOURCE = "int list_add(node_t *n) {\n  return n->next != NULL ? 0x1F : count++;\n}"
ASM = (
    "push rbp\nmov DWORD PTR [rbp-0x14],edi\njne L24\nlea rax,[rip+0x0] <z_errmsg>\nmov edx,DWORD PTR [rdx+rax*1]\nret"
)
IR = "define i32 @listAdd(i32 noundef %0) {\n  %2 = add i32 %0, -1\n  %3 = load i8*, i8** @str.1\n  ret i32 %2\n}"
TEXTS = [SOURCE, ASM, IR, "Adds a node; see listAdd(). naïve ✓", "", " ", "<pad>"]
KINDS = ["source", "asm", "ir", "comment", "comment", "source", "asm"]


@pytest.fixture(scope="module", params=["words", "bytes", "byte_hash", "bpe"])
def tokenizer(request):
    return build_tokenizer(TokenizerOptions(name=request.param, vocabulary=300), lambda: TEXTS * 3)


@pytest.mark.parametrize("length", [1, 7, 1000])
def test_ids_are_tokens_and_never_padding(tokenizer, length):
    for text, kind in zip(TEXTS, KINDS, strict=True):
        ids = tokenizer.encode(text, kind, length)
        assert 1 <= len(ids) <= length
        assert all(0 < i < tokenizer.vocabulary for i in ids)
        assert ids == tokenizer.encode(text, kind, 1000)[:length]


@given(text=st.text())
def test_any_text_has_ids(tokenizer, text):
    for kind in ("source", "asm", "ir", "comment"):
        ids = tokenizer.encode(text, kind, 50)
        assert ids and all(0 < i < tokenizer.vocabulary for i in ids)


def test_texts_become_rows_with_padding_behind(tokenizer):
    found = encode_all(tokenizer, [("comment", text) for text in TEXTS], 6)
    assert found.dtype == torch.int64 and found.shape == (len(TEXTS), 6)
    for row, text in zip(found.tolist(), TEXTS, strict=True):
        ids = tokenizer.encode(text, "comment", 6)
        assert row == ids + [0] * (6 - len(ids))
    assert encode_all(tokenizer, [], 6).shape == (0, 1)
    assert encode_all(tokenizer, [("asm", "")], 6).shape == (1, 1)


def test_byte_hashes_equal_the_golden_ids():
    golden = load_golden("contrabin_text")
    found = [ByteHashTokenizer(1024).encode(text, "source", 16) for text in golden["texts"].tolist()]
    for ids, row, mask in zip(found, golden["tok_ids"].tolist(), golden["tok_mask"].tolist(), strict=True):
        assert ids + [0] * (16 - len(ids)) == row
        assert [1] * len(ids) + [0] * (16 - len(ids)) == mask


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("source", SOURCE, "int list add ( node t * n ) { return n -> next != null ? 31 : count ++ ; }"),
        ("comment", "Adds a node; see listAdd().", "adds a node see list add"),
        (
            "asm",
            ASM,
            "%push %rbp %mov %DWORD %PTR %[ %rbp %-0x14 %] %edi %jne %L %lea %rax %[ %rip %+0x0 %] z errmsg "
            "%mov %edx %DWORD %PTR %[ %rdx %+ %rax %* 1 %] %ret",
        ),
        (
            "ir",
            IR,
            "%define %i32 list add %( %i32 %noundef % %) %{ % %= %add %i32 % %, -1 "
            "% %= %load %i8 %* %, %i8 %* %* str 1 %ret %i32 % %}",
        ),
    ],
)
def test_words(kind, text, words):
    assert list(split_text(text, kind)) == words.split()


@pytest.mark.parametrize(
    ("source", "asm", "value"),
    [
        ("0x1FUL", "0x1f", 31),
        ("010", "0x8", 8),
        ("08", "0x8", 8),
        ("'a'", "0x61", 97),
        (r"'\n'", "0xa", 10),
        (r"'\''", "0x27", 39),
        ("1", "0xffffffff", 1),
        ("128", "0xffffffffffffff80", 128),
    ],
)
def test_a_constant_is_one_token_however_it_is_written(source, asm, value):
    """Of -1 in C the sign is an operator; a binary holds 0xffffffff."""
    assert list(split_text(source, "source")) == list(split_text(asm, "asm")) == [str(value)]


def test_a_word_is_one_token_wherever_it_stands():
    words = build_tokenizer(TokenizerOptions(vocabulary=4096), list)
    in_comment = words.encode("list", "comment", 9)
    assert in_comment == words.encode("listAdd", "source", 1) == words.encode("<list_add>", "asm", 1)
    assert words.encode("and", "asm", 9) != words.encode("and", "comment", 9)


def test_bpe_finds_what_is_common_and_is_exact(tmp_path):
    bpe = train_bpe([SOURCE] * 5, 300)
    assert 257 < bpe.vocabulary <= 300
    ids = bpe.encode(SOURCE, "source", 10**6)
    assert len(ids) < len(SOURCE)
    assert bpe.merges.decode(ids) == SOURCE
    bpe.save(tmp_path / "tokenizer.json")
    again = load_bpe(tmp_path / "tokenizer.json")
    assert again.vocabulary == bpe.vocabulary
    assert all(again.encode(t, "asm", 99) == bpe.encode(t, "asm", 99) for t in TEXTS)


def test_bpe_is_the_same_file_in_every_process(tmp_path):
    program = """
import sys
from pathlib import Path
from runner.tokenizers.bpe import train_bpe
texts = [f"word{i % 7} other{i % 13} get_{i % 5}_list({i})" for i in range(200)]
train_bpe(texts, 400).save(Path(sys.argv[1]))
"""
    files = [tmp_path / f"{run}.json" for run in range(2)]
    for file in files:
        subprocess.run([sys.executable, "-c", program, str(file)], check=True)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_broken_tokenizer_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/none.json: cannot be read"):
        load_bpe(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x.json: not a tokenizer file"):
        load_bpe(tmp_path / "x.json")


def test_a_pretrained_tokenizer_keeps_its_special_tokens_and_frees_id_0(tmp_path):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "free", "the", "list"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    found = load_pretrained_tokenizer(str(tmp_path))
    assert found.vocabulary == len(words) + 1
    expected = [words.index(word) + 1 for word in ["[CLS]", "free", "the", "[UNK]", "[SEP]"]]
    assert found.encode("Free the node", "comment", 99) == expected
    assert found.encode("Free the list", "comment", 1) == [expected[0]]
    assert found.encode("Free the list", "comment", 3) == [expected[0], expected[1], expected[-1]]


def test_a_tokenizer_that_is_not_here_is_named_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer 'nobody/nothing' here; give a folder") as caught:
        load_pretrained_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_pretrained_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wordpiece"}, r"tokenizer.name: .wordpiece. is not allowed"),
        ({"name": "pretrained"}, r"tokenizer.source: is missing"),
        ({"name": "words", "source": "x"}, r"tokenizer.source: 'x' is not allowed; tokenizer words has none"),
        ({"name": "bpe", "vocabulary": 100}, r"tokenizer.vocabulary: 100 is not allowed; bpe needs at least 257"),
        ({"vocabulary": 1}, r"tokenizer.vocabulary: 1 is not allowed"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        build(TokenizerOptions, options, "tokenizer")
