"""The documentation: its tables match the results' JSON, links and anchors exist, and the README is short."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def results_doc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_doc", ROOT / "scripts" / "results_doc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page's text whose file or heading does not exist."""
    found = []
    for target in LINK.findall(FENCED.sub("", text)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


def lost_paths(text: str) -> list[str]:
    """The files of this repository that the text names in backticks and that do not exist."""
    named = re.findall(r"`((?:learn_spark|models|conf|tests|docs|scripts|jobs|examples|benchmarks)/[\w./-]+)`", text)
    return [path for path in named if not (ROOT / path).exists()]


def test_the_picture_of_the_windows_is_what_its_script_draws() -> None:
    spec = importlib.util.spec_from_file_location("windows_svg", ROOT / "scripts" / "windows_svg.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "images" / "windows.svg").read_text(encoding="utf-8") == module.windows_svg()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page: Path) -> None:
    assert lost_paths(page.read_text(encoding="utf-8")) == []


def test_a_lost_path_is_found() -> None:
    assert lost_paths("`learn_spark/core/steps.py` `learn_spark/runs/steps.py` `x/y.py`") == [
        "learn_spark/core/steps.py"
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "tables.md"
    text = "[a](no.md) [b](tables.md#releases) [c](#nothing) [d](../README.md) [e](https://example.org/x)"
    assert broken_links(page, text) == ["no.md", "#nothing"]


def test_the_tables_of_results_are_up_to_date(results_doc: ModuleType) -> None:
    stale = [name(page) for page in results_doc.PAGES if results_doc.filled(text := page.read_text("utf-8")) != text]
    assert stale == [], "run python scripts/results_doc.py"


def test_every_comparison_stands_on_a_page(results_doc: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in results_doc.PAGES)
    files = [path.name for path in (ROOT / "benchmarks" / "results" / "comparison").glob("*.json")]
    shown = {re.sub(r"_\d{4}-\d\d-\d\d\.json$", "", file) for file in files}
    assert files
    assert {stem for stem in shown if results_doc.newest(stem).name not in pages} == set()


def test_a_changed_figure_is_written_anew(results_doc: ModuleType) -> None:
    page = "<!-- table demo_alone -->\nold\n<!-- end -->"
    written = results_doc.filled(page)
    assert "old" not in written
    assert "| mid embedding |" in written
    assert results_doc.filled(written) == written


def test_the_newest_result_of_a_name_is_taken(results_doc: ModuleType, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "comparison").mkdir()
    for file in ("demo_2026-01-02.json", "demo_2026-11-01.json", "demo_repeats_2026-12-01.json"):
        (tmp_path / "comparison" / file).write_text(json.dumps({}))
    monkeypatch.setattr(results_doc, "RESULTS", tmp_path)
    assert results_doc.newest("demo").name == "demo_2026-11-01.json"
    with pytest.raises(SystemExit, match="no baskets_<date>.json"):
        results_doc.newest("baskets")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
