"""mkdocs hook: the pages that lie beside docs/ become pages of the site, and links to them are followed.

Links to files of the repository that are no pages become their names: the site does not know where it is published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changes.md",
         "CONTRIBUTING.md": "contributing.md"}
"""By their place in the repository."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Follow the links of a page from where it lies in the repository."""
    own = next((source for source, name in PAGES.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda found: linked(found, (ROOT / own).parent), markdown)


def linked(found: re.Match[str], folder: Path) -> str:
    """One link, as the site has it."""
    picture, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found.group()
    path, hash_, anchor = target.partition("#")
    place = (folder / path).resolve()
    name = place.relative_to(ROOT).as_posix()
    if name.startswith("docs/") and place.is_file():
        return f"{picture}[{text}]({name.removeprefix('docs/')}{hash_}{anchor})"
    if name in PAGES:
        return f"[{text}]({PAGES[name]}{hash_}{anchor})"
    if not place.exists():
        raise ValueError(f"{target} is not in the repository")
    return text
