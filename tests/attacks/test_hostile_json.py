"""JSON of strangers: whatever it is, one error of its own, in bounded time and memory."""

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from foldrank import strictjson
from foldrank.cli import main
from foldrank.plainfile import NotPlain, open_plain
from foldrank.words import MOST, one_line

_KEYS = ",".join(f'"k{i}":0' for i in range(400_000))

BOMBS = {
    "400,000 keys, the last one twice": ("{" + _KEYS + ',"k399999":1}', "'k399999' stands twice"),
    "many keys, the first one twice": ('{"k0":1,' + _KEYS[: _KEYS.index(',"k9999"')] + "}", "'k0' stands twice"),
    "4 million empty lists": ("[" + ",".join(["[]"] * 4_000_000) + "]", "more than 1,048,576 values"),
    "4 million numbers": ("[" + ",".join(["0"] * 4_000_000) + "]", "more than 1,048,576 values"),
    "200,000 levels": ("[" * 200_000, "nested deeper than 64 levels"),
    "a number of 100,000 digits": ('{"a":' + "9" * 100_000 + "}", "not JSON"),
    "a number beyond all floats": ('{"a":1e999}', "1e999 is beyond all floats"),
    "half of a surrogate pair": ('{"a":"\\ud800"}', "half of a surrogate pair"),
    "half of one as a key": ('{"\\uDFFF":0}', "half of a surrogate pair"),
    "NaN": ('{"a":NaN}', "NaN is not JSON"),
    "nothing": ("", "not JSON"),
    "NUL bytes": ("\0" * 100, "not JSON"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refused_in_bounded_time_and_memory(tmp_path: Path, name: str) -> None:
    text, says = BOMBS[name]
    path = tmp_path / "a.json"
    path.write_text(text)
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(strictjson.JsonError, match=says):
            strictjson.read(path)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10  # four times as slow as without tracemalloc


def test_400_000_keys_are_read() -> None:
    assert len(strictjson.loads("{" + _KEYS + "}")) == 400_000


def test_a_whole_surrogate_pair_is_read() -> None:
    assert strictjson.loads('"\\ud83d\\ude00"') == "\U0001f600"


def test_the_infinity_that_transformers_writes_is_read_of_a_checkpoint_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('\ufeff{"a": Infinity}')
    assert strictjson.read_foreign(path) == {"a": float("inf")}
    with pytest.raises(strictjson.JsonError):
        strictjson.read(path)


def _socket(path: Path) -> None:
    with socket(AF_UNIX) as made:
        made.bind(os.path.relpath(path))


ODD: dict[str, Callable[[Path], object]] = {
    "is a FIFO": os.mkfifo,
    "is a device": lambda path: path.symlink_to("/dev/zero"),
    "is a folder": Path.mkdir,
    "is a socket": _socket,
    "Too many levels": lambda path: path.symlink_to(path),
    "No such file": lambda path: path.symlink_to("/nowhere/at/all"),
}


@pytest.mark.parametrize("says", ODD)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, says: str) -> None:
    ODD[says](tmp_path / "odd")
    with pytest.raises(OSError, match=says) as refused:
        open_plain(tmp_path / "odd")
    assert isinstance(refused.value, NotPlain) == says.startswith("is ")
    with pytest.raises(OSError, match=says if not (tmp_path / "odd").is_symlink() else "is a link"):
        open_plain(tmp_path / "odd", follow=False)


FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("says", ODD)
def test_a_checkpoint_with_it_is_refused_by_name_and_no_input_is_our_bug(
    specs_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    for file in specs_5m.iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    ODD[says](tmp_path / name)
    code = main._run(["inspect", str(tmp_path)])
    assert code == (4 if says in ("is a FIFO", "is a device", "is a socket") else 3)
    error = capsys.readouterr().err
    assert name in error
    assert says in error


def test_a_message_shows_no_control_character_and_keeps_its_end() -> None:
    line = one_line("a\x1b[31mred\n\tb " + "x" * 5_000 + "; plan again")
    assert line.startswith("a\\x1b[31mred b xxx")
    assert line.endswith("; plan again")
    assert len(line) < MOST
