"""JSON of a stranger: bounded in depth, in time that grows with its length alone."""

from __future__ import annotations

import json
import time

import pytest

from converter.bounded_json import DEEPEST, parse_json, parse_texts


@pytest.mark.parametrize("pair", ["[]", '{"a":}'])
def test_nesting_is_bounded(pair: str) -> None:
    opening, closing = pair[:-1], pair[-1]
    assert parse_json(opening * DEEPEST + "1" + closing * DEEPEST)
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(opening * (DEEPEST + 1) + "1" + closing * (DEEPEST + 1))


def test_brackets_in_texts_do_not_count() -> None:
    texts = ["[" * 500, '\\"[[' * 300, "]" * 500, '"' + "{" * 300]
    assert parse_json(json.dumps({"a": texts})) == {"a": texts}
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json('["' + "]" * 500 + '", ' + "[" * DEEPEST)


def test_what_is_no_json_ends_as_soon() -> None:
    started = time.process_time()
    for text in ('"' + '\\"' * 400_000 + "[" * 300, "[" * 300 + '"' * 400_001, "[" * 10_000_000):
        with pytest.raises(ValueError, match=r"nested deeper|Unterminated|Expecting"):
            parse_json(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["", "[", "{}", "3", "null", "[" * 20_000, b"[\xff]", b'["\xff"]', b"\xff\xfe["])
def test_what_is_no_list_of_texts_is_none(text: str | bytes) -> None:
    assert parse_texts(text) == []
    assert parse_texts('["a", 1]') == ["a", "1"]
