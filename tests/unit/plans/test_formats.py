"""Data sets as they come: what suffix and content say is read; what is no text is refused by name, line and way out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from foldrank.errors import SourceError
from foldrank.plans import textfiles
from foldrank.plans.chats import Chat, rendered
from foldrank.plans.texts import Text, cut_windows, load_tokenizer, read_text

LINES = '{"text": "one"}\n{"text": "zwei"}\n'
ROWS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def read(folder: Path, name: str, data: bytes | str) -> tuple[Any, ...]:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_text(folder / name, "calibration").documents


@pytest.mark.parametrize("name", [
    "a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.txt", "a.JSON", "a.txt", "a", "a.jsonlines", "a.NDJSON.txt",
])
@pytest.mark.parametrize("form", [
    LINES, "\n" + LINES.replace("\n", "\r\n"), json.dumps([{"text": "one"}, {"text": "zwei"}], indent=1),
    '{\n "text": "one"\n}\n{\n "text": "zwei"\n}',
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_under_every_name_and_byte_order_mark(
    name: str, form: str, encoding: str, tmp_path: Path
) -> None:
    assert read(tmp_path, name, form.encode(encoding)) == ("one", "zwei")
    assert read(tmp_path, f"{name}.GZ", gzip.compress(form.encode(encoding))) == ("one", "zwei")


@pytest.mark.parametrize(("record", "wanted"), [
    ({"text": "a", "content": "b"}, "a"), ({"text": None, "content": "b"}, "b"), ("plain", "plain"),
    ({"id": 3, "content": "b"}, "b"), ({"prompt": "p", "completion": " c"}, "p c"),
    ({"prompt": "p", "response": "r"}, "pr"),
    ({"instruction": "Say it.", "input": "", "output": "It."}, "Say it.\n\nIt."),
    ({"instruction": "Say", "input": "it", "output": "It."}, "Say\n\nit\n\nIt."),
    ({"question": "Why?", "answer": "So."}, "Why?\n\nSo."),
])
def test_records_are_read_by_the_keys_that_data_sets_have(record: Any, wanted: str, tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", json.dumps(record)) == (wanted,)
    assert read(tmp_path, "a.json", json.dumps([record, record])) == (wanted, wanted)


@pytest.mark.parametrize(("name", "table"), [
    ("a.csv", 'id,text\n0,"Row, with commas\nand a line"\n\n1,plain\n'),
    ("a.CSV", 'text;id\n"Row, with commas\nand a line";0\nplain;1\n'),
    ("a.tsv", 'id\ttext\n0\t"Row, with commas\nand a line"\n1\tplain\n'),
    ("a.csv.txt", '\ufeffid,content\r\n0,"Row, with commas\nand a line"\r\n1,plain\r\n'),
])
def test_tables_are_read_by_their_header(name: str, table: str, tmp_path: Path) -> None:
    assert read(tmp_path, name, table) == ("Row, with commas\nand a line", "plain")


def test_a_field_may_be_long(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "text,id\n" + "x" * 200_000 + ",1\n") == ("x" * 200_000,)


@pytest.mark.parametrize("prose", [
    "{Braces} open this.\n", "[1] A note.\n", "[link](there) and on\n", "<3 this\n", "a < b and c > d\n" * 50,
    "<!-- draft -->\n# Title\n\nSome <b>bold</b> prose.\n", "#include <vector>\nstd::vector<int> v;\n" * 40,
])
def test_prose_stays_one_document(prose: str, tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", prose) == (prose,)
    assert read(tmp_path, "a.md", prose.encode("utf-8-sig")) == (prose,)


@pytest.mark.parametrize(("name", "data", "says"), [
    ("a.ndjson", LINES + "nope\n", r"a.ndjson:3: is not JSON.*\"text\""),
    ("a.jsonl.txt", '{"body": "x", "id": 1}\n', r"a.jsonl.txt:1: .*its keys are body, id; .*messages"),
    ("a.txt", LINES + '{"text": 7}\n', 'a.txt:3: has no string "text" but a number'),
    ("a.json", '[\n{"text": "a"},\n["b"]\n]', "a.json:3: is an array, not an object"),
    ("a.json", '[\n{"text": "a"}\n{"text": "b"}]', "a.json:3: is not JSON: no comma"),
    ("a.json", '[{"text": "a"}\n', "a.json:2: is not JSON: the array has no end"),
    ("a.json", '["a"]\n["b"]', "a.json:2: goes on after its array"),
    ("a.json", "[" * 200_000, "a.json:1: .* nested too deep"),
    ("a.json", "9" * 10_000, "a.json:1: .* a number too long"),
    ("a.jsonl", '{"text": "\\ud800"}', "a.jsonl:1: holds half a character"),
    ("a.csv", "id,body\n1,x\n", "a.csv:2: has no string .*its keys are id, body"),
    ("a.csv", "id,text\n1,x,y\n", "a.csv:2: has 3 fields, the header has 2; quote"),
    ("a.csv", 'text,id\n"x"y,1\n', "a.csv:2: is no row of a table"),
    ("a.html", "<p>x", "is markup .*; take the text out"),
    ("a.txt", "<!-- x -->\n<!DOCTYPE html>\n<p>x", "is markup"),
    ("a.txt", "<?xml version='1.0'?><a>x</a>", "is markup"),
    ("a.txt", '<doc id="1">\nWords.\n</doc>\n', "is markup"),
    ("a.txt", "Words <b>and</b> <i>tags</i>\n" * 30, "is markup"),
    ("a.parquet", b"PAR1\0\0", "is Parquet.*to_json"), ("a.txt", b"PAR1\0\0", "is Parquet"),
    ("a.zip", b"", "a zip archive"),
    ("a.docx", b"PK\x03\x04", "a zip archive"), ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "is Zstandard"),
    ("a.pdf", b"%PDF-1.7", "is PDF"), ("a.txt", b"a\0b", "holds NUL bytes"),
    ("a.txt", "utf-16".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ("a.txt", b"ab\xff", r"not UTF-8 \(byte 2\)"),
    ("a.txt", b"\xef\xbb\xbfab\xff", r"not UTF-8 \(byte 5\)"),
    ("a.jsonl", '{"messages": "x"}', 'a.jsonl:1: its "messages" is no list'),
    ("a.jsonl", '{"messages": [{"role": "user"}]}', "a.jsonl:1: has a turn without"),
    ("a.jsonl", '{"messages": ["x"]}', "a.jsonl:1: has a turn that is no object"), ("a.csv", "text\n", "holds no text"),
])
def test_refusals_name_the_file_the_line_and_the_way_out(
    name: str, data: bytes | str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=says) as error:
        read(tmp_path, name, data)
    assert error.value.where.startswith(str(tmp_path / name))
    assert error.value.remedy


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfiles, "MOST_BYTES", 1000)
    assert read(tmp_path, "a.txt", "x" * 1000) == ("x" * 1000,)
    for name, data in (("a.txt", b"x" * 1001), ("a.txt.gz", gzip.compress(b"x" * 1_000_000))):
        with pytest.raises(SourceError, match="holds more than"):
            read(tmp_path, name, data)


@pytest.mark.parametrize("record", [
    {"messages": ROWS}, {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]},
    {"prompt": ROWS[:1], "completion": ROWS[1:]},
    {"messages": [{"role": "user", "content": [{"text": "H"}, {"type": "text", "text": "i"}]}, ROWS[1]]},
])
def test_chats_are_written_by_the_tokenizers_template(record: Any, specs_5m: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    [chat] = read(tmp_path, "a.jsonl", json.dumps(record))
    tokenizer: Any = load_tokenizer(specs_5m)
    tokenizer.chat_template = TEMPLATE
    wanted = "<|endoftext|>[user]Hi[assistant]Yes?"
    assert rendered(chat, tokenizer) == wanted
    cut = cut_windows(Text("t", "", (chat,)), tokenizer, window=4, windows=None, seed=None)
    ids = tokenizer(wanted, add_special_tokens=False)["input_ids"]
    assert cut.ids.ravel().tolist() == ids[: cut.ids.size]


@pytest.mark.parametrize(("template", "says"), [
    (None, "the tokenizer has no chat template; write them out"),
    ("{{ raise_exception('roles must alternate') }}", "refuses it: roles must alternate"),
    ("{{ 1 / 0 }}", "refuses it: division by zero"), ("{% if %}", "refuses it"),
])
def test_a_template_that_is_not_there_or_refuses_is_told_with_the_line(
    template: str | None, says: str, specs_5m: Path
) -> None:
    pytest.importorskip("jinja2")
    tokenizer: Any = load_tokenizer(specs_5m)
    tokenizer.chat_template = template
    with pytest.raises(SourceError, match=f"chats.jsonl:7: .*{says}"):
        rendered(Chat("chats.jsonl:7", tuple(ROWS)), tokenizer)


def test_the_digest_is_of_the_bytes_as_they_lie(tmp_path: Path) -> None:
    read(tmp_path, "a.txt", "x")
    found = read_text(tmp_path / "a.txt", "calibration")
    assert (found.name, found.sha256[:16]) == ("a.txt", "2d711642b726b044")
