"""Looks through the finished pages for what leads nowhere or was not understood."""

import posixpath
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LEFT = re.compile(r"^(?:[-*|] .*|.*\]\(.*|:::.*)$", re.MULTILINE)
"""Markdown in a paragraph of text, such as a list without an empty line before it."""


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.paragraphs: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update(name for key in ("id", "name") if (name := found.get(key)))
        self.links.extend(link for key in ("href", "src") if (link := found.get(key)))
        if tag in ("p", "pre", "code"):
            self._inside.append(tag)
        if tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            self._inside.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._inside == ["p"]:
            self.paragraphs[-1] += data


def problems(folder: Path) -> list[str]:
    """Of a built site: links without a target, and Markdown that was left as it is."""
    pages = {
        path.relative_to(folder).as_posix(): _Page(path.read_text())
        for path in sorted(folder.rglob("*.html"))
    }
    found = []
    for name, page in pages.items():
        # The page for what is not found does not know where it will be shown.
        links = [] if name == "404.html" else dict.fromkeys(page.links)
        for link in links:
            if not _leads(link, name, pages, folder):
                found.append(f"{name}: {link} leads nowhere")
        for text in page.paragraphs:
            found += [f"{name}: not understood: {line}" for line in LEFT.findall(text)]
    return found


def _leads(link: str, page: str, pages: Mapping[str, _Page], folder: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = page
    if parts.path:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path)))
        if (folder / target).is_dir():
            target = posixpath.normpath(posixpath.join(target, "index.html"))
        if not (folder / target).is_file():
            return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].ids
