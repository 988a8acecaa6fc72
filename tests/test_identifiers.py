import pytest

from runner.identifiers import split_identifier, split_name
from tests.golden import load_golden


def test_names_split_as_the_golden_ones():
    golden = load_golden("contrabin_text")
    found = ["|".join(split_name(name)) for name in golden["names"].tolist()]
    assert found == golden["subtokens"].tolist()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("parseHTTPHeader_v2", "parse http header v 2"),
        ("png_set_tRNS", "png set t rns"),
        ("LUA_TNIL", "lua tnil"),
        ("deflateInit2_", "deflate init 2"),
        ("x86FPU87", "x 86 fpu 87"),
        ("", ""),
        ("__", ""),
    ],
)
def test_identifiers_split_at_case_underscore_and_digit(name, words):
    assert split_identifier(name) == words.split()
