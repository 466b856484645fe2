"""mkdocs hooks: the examples' pictures join the site, links out of docs/ lead to the repository, formulas become MathML."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()(\.\./[^)#\s]+)")
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Pictures of example_workflows become files of the site, below example_workflows/."""
    for picture in sorted((ROOT / "example_workflows").glob("*.jpg")):
        name = f"example_workflows/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """``text`` with every link that leaves docs/ led to its picture in the site, or to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {match[2]}")
        if target.endswith(".jpg"):
            return match[1] + posixpath.relpath(target, folder or ".")
        return f"{match[1]}{config.extra['repository']}/blob/main/{target}"

    return LINK.sub(led, text)


def on_page_content(text: str, page: Any, config: Any, files: Any) -> str:
    """``text`` with its formulas as MathML, which browsers draw without a script."""
    text = DISPLAY.sub(lambda m: f"<p>{convert(html.unescape(m[1]), display='block')}</p>", text)
    return INLINE.sub(lambda m: convert(html.unescape(m[1])), text)
