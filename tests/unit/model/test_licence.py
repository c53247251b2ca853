"""A checkpoint's licence: read off its card, its files carried into bundle, card and package."""

import json
from pathlib import Path

import pytest

from foldrank.model.licence import is_licence, licence_files, stated_licence
from foldrank.reporting.card import model_card


def card(folder: Path, front: str) -> Path:
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("front", "found"), [
    ("license: apache-2.0", {"license": "apache-2.0"}),
    ("language: en\nlicense: mit\ntags: [a]", {"license": "mit"}),
    ("license: [mit, apache-2.0]", {"license": "mit,apache-2.0"}),
    ("license: other\nlicense_name: llama-3.2 community\nlicense_link: https://example.org/a/LICENSE",
     {"license": "other", "license_name": "llama-3.2 community", "license_link": "https://example.org/a/LICENSE"}),
    ("license: other\nlicense_link: LICENSE", {"license": "other", "license_link": "LICENSE"}),
    ("license: 'a\n\n  # b'", {}), ("license: {a: b}", {}), ("license: 3", {}), ("license: [mit, [a]]", {}),
    ("license_link: javascript:alert(1)", {}), ("license: [", {}), ("- license", {}), ("license: []", {}),
    ("license: !!python/object/apply:os.system [id]", {}),
])
def test_the_front_matter_is_taken_in_the_hubs_form_alone(front: str, found: dict[str, str], tmp_path: Path) -> None:
    assert stated_licence(card(tmp_path, front)) == found


def test_no_card_a_card_without_front_matter_and_a_folder_in_its_place_state_nothing(tmp_path: Path) -> None:
    assert stated_licence(tmp_path) == {}
    (tmp_path / "README.md").write_text("license: mit\n---\n")
    assert stated_licence(tmp_path) == {}
    (tmp_path / "other" / "README.md").mkdir(parents=True)
    assert stated_licence(tmp_path / "other") == {}


def test_windows_lines_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# x\r\n")
    assert stated_licence(tmp_path) == {"license": "mit"}


def test_licence_files_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("LICENSE", "LICENSE.txt", "LICENCE.md", "NOTICE", "COPYING", "USE_POLICY.md", "LICENSE-2.0",
                 "license.bin", "unlicensed.txt", "README.md", "notice.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / "LICENSES").mkdir()
    names = [path.name for path in licence_files(tmp_path)]
    assert names == sorted(["LICENSE", "LICENSE.txt", "LICENCE.md", "NOTICE", "COPYING", "USE_POLICY.md",
                            "LICENSE-2.0"])
    assert not is_licence("reports/validate.json")


@pytest.mark.parametrize(("source", "files", "wanted", "said"), [
    ({"license": "mit"}, (), {"license": "mit"}, "The licence of the source checkpoint (`mit`) applies."),
    ({"license": "mit,apache-2.0"}, ("LICENSE",), {"license": ["mit", "apache-2.0"]}, "applies: see `LICENSE`."),
    ({"license": "other", "license_name": "gemma", "license_link": "LICENSE"}, ("LICENSE", "NOTICE"),
     {"license": "other", "license_name": "gemma", "license_link": "LICENSE"}, "(`gemma`) applies: see"),
    ({}, ("LICENSE",), {"license": "other", "license_link": "LICENSE"}, "applies: see `LICENSE`."),
    ({}, (), {}, "The licence of the source checkpoint applies."),
])
def test_the_card_says_it_and_the_hub_reads_it(
    source: dict[str, str], files: tuple[str, ...], wanted: dict[str, object], said: str, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    for name in files:
        (tmp_path / name).write_text("text")
    text = model_card(tmp_path, manifest={"source": {"name": "org/model", **source}})
    data = hub.ModelCard(text).data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == wanted
    assert said in text
    assert (data["base_model"], data["library_name"]) == ("org/model", "foldrank")
    assert all(f"`{name}` | licence of the source" in text for name in files)


def test_a_bundle_carries_licence_and_notice_and_a_compressed_one_too(specs_5m: Path, tmp_path: Path) -> None:
    from foldrank.export.finish import finish_files
    from foldrank.model.checkpoint import Checkpoint

    (tmp_path / "checkpoint").mkdir()
    for path in specs_5m.iterdir():
        if path.name not in ("README.md", "LICENSE"):
            (tmp_path / "checkpoint" / path.name).symlink_to(path)
    card(tmp_path / "checkpoint", "license: mit")
    (tmp_path / "checkpoint" / "LICENSE").write_text("MIT")
    (tmp_path / "checkpoint" / "NOTICE.txt").write_text("by A")
    checkpoint, out = Checkpoint.open(tmp_path / "checkpoint"), tmp_path / "out"
    out.mkdir()
    genai = {"model": {"context_length": 64, "decoder": {"session_options": {"provider_options": []}}}}
    (out / "genai_config.json").write_text(json.dumps(genai))
    finish_files(out, checkpoint, "cpu")
    assert [(out / name).read_text() for name in ("LICENSE", "NOTICE.txt")] == ["MIT", "by A"]
    assert checkpoint.source()["license"] == "mit"
