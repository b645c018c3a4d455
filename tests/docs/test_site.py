"""The site: nothing is left out, links lead somewhere, mathematics is drawn."""

from pathlib import Path

import pytest

from docs.site import configs, reference, sources
from docs.site.__main__ import all_pages, site_config
from docs.site.check import problems

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    return all_pages()


@pytest.fixture(scope="module")
def listed(pages):
    def paths(node):
        if isinstance(node, str):
            return [node]
        return [path for one in (node.values() if isinstance(node, dict) else node)
                for path in paths(one)]  # fmt: skip

    return paths(site_config(pages)["nav"])


def test_every_page_is_in_the_navigation_once(pages, listed):
    assert sorted(listed) == sorted(path for path in pages if not path.startswith("files/"))


def test_guides_configs_programs_and_results_are_all_there(pages, listed):
    for guide in (ROOT / "docs/guides").glob("*.md"):
        assert f"guides/{guide.name}" in listed
    for result in (ROOT / "results").glob("*.json"):
        assert f"results/{result.stem}.md" in listed
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.stem}.md" in listed
    for file in (ROOT / "configs").rglob("*.py"):
        page, anchor = configs.config_place(file.relative_to(ROOT).as_posix())
        assert page in listed
        assert f"\n## {anchor}\n" in pages[page]
    for name in ("train", "sample", "sweep", "prepare_text"):
        assert f"## {name}\n\n```text\nusage: python -m experiments.{name} " in pages["programs.md"]


def test_the_reference_has_every_module(pages):
    there = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "dbjax").rglob("*.py")
        if path.stem != "__init__"
    }
    named = [f"dbjax.{m}" for own in reference.CHAPTERS.values() for n in own
             for m in reference.modules(n)]  # fmt: skip
    assert sorted(named) == sorted(there)
    text = "".join(pages.values())
    assert all(f"::: {name}\n" in text for name in named)


def test_links_of_files_become_links_of_pages():
    assert sources.place("README.md") == "index.md"
    assert sources.place("docs/guides/data.md") == "guides/data.md"
    assert sources.place("docs/guides") == "guides/index.md"
    assert sources.place("results/demo_digits.json") == "results/demo_digits.md"
    assert sources.place("notebooks/04_text.ipynb") == "notebooks/04_text.md"
    assert sources.place("configs/dit_digits.py") == "configs/images.md#dit_digits"
    assert sources.place("experiments/train.py") == "programs.md#train"
    assert sources.place("LICENSE") == "files/LICENSE.md"


def test_files_that_pages_name_come_along(pages):
    assert "def test_" in pages["files/tests/contract/test_invariance.py.md"]
    assert pages["files/results/demo_digits.json"].startswith("{")


def test_mathematics_becomes_mathml(pages):
    method = pages["method.md"]
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in method
    assert "```math" not in method and "$`" not in method


def test_what_leads_nowhere_or_is_not_understood_is_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/index.html").write_text('<h1 id="here">A</h1><a href="../">up</a>')
    (tmp_path / "index.html").write_text(
        '<a href="a/#here">1</a> <a href="a/#gone">2</a> <img src="b.png"> <a href="#x">3</a>'
        '<a href="https://example.org/#y">4</a><p>A list:\n- one</p><p><code>- two</code></p>'
    )
    assert problems(tmp_path) == [
        "index.html: a/#gone leads nowhere",
        "index.html: b.png leads nowhere",
        "index.html: #x leads nowhere",
        "index.html: not understood: - one",
    ]
