"""Pages that people wrote, as the site needs them: links, mathematics, and the files they name."""

import posixpath
import re
from collections.abc import Iterable, Mapping

from latex2mathml.converter import convert

from docs.site.configs import config_place
from docs.site.programs import programs
from docs.site.text import ROOT, fenced, file_place, to

HOME = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
FOLDERS = {
    "docs/guides": "guides/index.md",
    "results": "results/index.md",
    "configs": "configs/index.md",
    "notebooks": "guides/notebooks.md",
}
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`]+)`\$")


def pages() -> dict[str, str]:
    """Pages by path: all Markdown of docs/, and what lies beside it."""
    sources = {**HOME, **{f"docs/{name}": name for name in _documents()}}
    found = {page: _page((ROOT / source).read_text(), source) for source, page in sources.items()}
    listed = "\n".join(f"- [{heading(found[f'guides/{name}.md'])}]({name}.md)" for name in guides())
    return {**found, "guides/index.md": f"# Guides\n\n{listed}\n"}


def guides() -> list[str]:
    """Names of the guides, in the order of the list that ends the README; new ones come last."""
    there = sorted(path.stem for path in (ROOT / "docs/guides").glob("*.md"))
    named = re.findall(r"\(docs/guides/(\w+)\.md\)", (ROOT / "README.md").read_text())
    # Some are named in passing before.
    order = [*dict.fromkeys(reversed(named))][::-1]
    return [
        *(name for name in order if name in there),
        *sorted(set(there) - set(order)),
    ]


def heading(page: str) -> str:
    """The title of a page."""
    match = re.search(r"^# (.*)$", page, re.MULTILINE)
    return match[1] if match else ""


def named_files(pages: Mapping[str, str]) -> dict[str, str]:
    """Files of the repository that pages link to, as the site has them, by their place there."""
    found = {}
    for page, text in pages.items():
        for match in LINK.finditer(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
            if not path.startswith("files/"):
                continue
            name = path.removeprefix("files/")
            if (ROOT / name).is_file():
                found[path] = (ROOT / name).read_text()
            elif (ROOT / name.removesuffix(".md")).is_file():
                found[path] = _listing(name.removesuffix(".md"))
    return found


def _documents() -> Iterable[str]:
    folder = ROOT / "docs"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))


def _page(text: str, source: str) -> str:
    text = MATH.sub(lambda match: _display(match[1]), text)
    parts = FENCE.split(text)
    parts[::2] = [INLINE.sub(_inline, _relinked(part, source)) for part in parts[::2]]
    return "".join(parts)


def _display(latex: str) -> str:
    return f'<div class="math">{convert(" ".join(latex.split()), display="block")}</div>'


def _inline(match: re.Match[str]) -> str:
    # At the start of a line, Markdown takes <math> itself for a block.
    return f"<span>{convert(match[1])}</span>"


def _relinked(text: str, source: str) -> str:
    """Links of a source file as links of its page."""
    page = place(source)

    def renewed(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target, _, anchor = place(path).partition("#")
        return f"]({to(target, page)}{match[2] or (anchor and f'#{anchor}')})"

    return LINK.sub(renewed, text)


def place(path: str) -> str:
    """Where the site has a file or folder of the repository."""
    if path in HOME:
        return HOME[path]
    if path in FOLDERS:
        return FOLDERS[path]
    folder, _, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    if path.startswith("docs/") and (ending == "md" or folder == "docs/images"):
        return path.removeprefix("docs/")
    if folder == "notebooks" and ending == "ipynb":
        return f"notebooks/{stem}.md"
    if folder == "results" and ending == "json":
        return f"results/{stem}.md"
    if path.startswith("configs/") and (ROOT / path).is_file():
        return "#".join(config_place(path))
    if folder == "experiments" and stem in programs():
        return f"programs.md#{stem}"
    return file_place(path)


def _listing(path: str) -> str:
    language = "python" if path.endswith(".py") else "text"
    code = fenced((ROOT / path).read_text(), language)
    return f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {path}\n\n{code}"
