"""The report's page and the summary's headline, on made-up figures."""

import re
import sys
import xml.etree.ElementTree as ET
from subprocess import PIPE, Popen

import psutil
import pytest

from learn_spark.config.load import load_config
from learn_spark.evaluation import charts
from learn_spark.evaluation.html import number, plain, signed
from learn_spark.evaluation.report import render
from learn_spark.evaluation.summary import SUMMARY, headline, write_json
from learn_spark.runs.memory import PeakMemory
from tests.builders import figures


@pytest.fixture(scope="module")
def page():
    return render(figures.summary(), figures.recorded(), figures.RELEASE, "lake: {root: /lake}\n")


def test_figures_that_were_recorded_before_trials_had_seeds_of_their_own_are_shown():
    """Such figures are on the page of a refused night on a lake that an earlier version evaluated."""
    recorded = figures.summary()
    recorded["ranker"] = {name: value for name, value in recorded["ranker"].items() if name != "trial_seeds"}
    told = render(recorded, figures.recorded(), figures.RELEASE, "lake: {root: /lake}\n")
    assert f"of the first {len(recorded['ranker']['auc_gain_by_seed'])} of these" in told


def test_the_page_needs_nothing_from_outside(page):
    assert "<script" not in page
    assert not re.findall(r"<(?:link|img|iframe|object)\b|@import|url\((?!#)", page)
    addresses = {re.sub(r"^https?://", "", a) for a in re.findall(r"https?://[^\"'\s<>)]+", page)}
    assert addresses <= {"www.w3.org/1999/xlink", "www.w3.org/2000/svg"}


def test_the_page_shows_all_that_ran(page):
    for text in (
        "+0.0112",
        "0.7185 → 0.7297",
        "1.50 times the best row without training (mean content + popularity, 0.240)",
        "3.50 for what the history holds",
        "3,402 items known on the test day, ranked by",
        "0.2900 to 0.3100",
        "Towers without popularity",
        "135,080",
        "learn-towers version 1",
        "Long-tail items",
        "Base + all three, shuffled",
        "Base + raw item content",
        "by seed of the trees: +0.0109, +0.0115, +0.0112.",
        "WHITE HANGING HEART T-LIGHT HOLDER",
        "Effective rank",
        "item effective rank",
        "20111210-ab12cd34",
        "run000000001",
        "lake: {root: /lake}",
        "4.2 GiB",
    ):
        assert text in page, text
    assert page.count("<svg") == 7
    assert all(f"<code>{name}</code>" in page for name in figures.summary()["tables"])


def test_a_refused_release_is_shown_with_what_stopped_it(page):
    assert "stopped by its gates" not in page
    failed = {"name": "item_mean_cosine", "value": 0.97, "lower": None, "upper": 0.9, "passed": False}
    refused = figures.RELEASE | {"release_id": "20111211-00000000", "gates": [*figures.GATES[:2], failed]}
    shown = render(figures.summary(), figures.recorded(), figures.RELEASE, "", refused)
    part = shown[shown.index("stopped by its gates") : shown.index("<h2>Release and gates")]
    assert "20111211-00000000</code> was not published: item mean cosine is 0.970." in part
    assert "Readers still get <code>20111210-ab12cd34</code>." in part
    assert part.count("holds") == 2 and part.count("failed") == 1
    assert "There is no release yet." in render(figures.summary(), figures.recorded(), None, "", refused)


def test_a_retrain_says_what_consumers_keep(page, tmp_path):
    summary = figures.summary()
    assert "Users of one release" not in page and "is not trained anew" not in page
    mixed = {"earlier_release": "20111203-00c0ffee"}
    for name, value in (("earlier", 0.31), ("earlier_users", 0.305), ("earlier_items", 0.2995)):
        mixed |= {f"{name}_recall_at_50": value, f"{name}_recall_at_50_ci90": [value - 0.01, value + 0.01]}
    kept = {"release": "20111203-00c0ffee", "auc_gain_earlier": 0.0118, "auc_gain_kept": 0.0109, "share": 0.924}
    summary |= {
        "retrieval": summary["retrieval"] | mixed,
        "ranker": summary["ranker"] | {"kept": kept | {"share_ci90": [0.87, 0.971]}},
    }
    told = render(summary, figures.recorded(), figures.RELEASE, "")
    for text in ("0.2995 (0.2895 to 0.3095)", "<b>92%</b> (90% interval 87 to 97%)", "+0.0118", "20111203-00c0ffee"):
        assert text in told, text
    settings = [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}"]
    write_json(tmp_path / SUMMARY, summary)
    lines = headline(load_config("conf/test.yaml", settings)).splitlines()
    assert "keeps 92% of its gain without training anew, 90% interval 87% .. 97%" in lines[2]


def test_calibration_is_drawn_and_listed(page):
    part = page[page.index("Is the conversion probability one?") :]
    part = part[: part.index("</table>")]
    assert "within users –" in part and "<b>0.0123</b>" in part and "<svg" in part
    rows = re.findall(r"<tr><td>(\d+)</td>" + r'<td class="n">([\d.,]+)</td>' * 3, part)
    assert len(rows) == 10 and rows[0] == ("1", "0.0500", "0.0400", "1,234")
    without = figures.recorded()
    without[-3].details["result"].pop("best")
    assert "Is the conversion probability one?" not in render(figures.summary(), without, None, "")


def test_text_from_the_data_is_escaped(page):
    assert "title is &lt;missing&gt;" in page


def test_other_candidates_are_named_and_an_older_ledger_is_shown():
    summary = figures.summary()
    every = summary | {"retrieval": summary["retrieval"] | {"candidates": "catalogue", "targets_not_known": 0}}
    page = render(every, figures.recorded(), None, "")
    assert "all 3,402 items, ranked by" in page and "nobody had seen" not in page
    named = {"candidates", *(name for name in summary["retrieval"] if name.endswith("_ci90"))}
    older = {name: value for name, value in summary["retrieval"].items() if name not in named}
    page = render(summary | {"retrieval": older}, figures.recorded(), None, "")
    assert "3,402 items known on the test day, ranked by" in page and "0.2900 to 0.3100" not in page


def test_unknown_figures_are_dashes_and_not_drawn(page):
    row = re.search(r"<tr><td>Cold items</td>.*</tr>", page).group()
    assert row.count("–") == 5
    drawn = re.search(r'<div class="scroll">', page).start()
    assert "Cold items" not in page[page.index("Ranking: do") : drawn]


def test_a_page_of_ingest_alone():
    summary = figures.summary() | {"retrieval": None, "ranker": None, "rejects": {}, "release_id": None}
    summary["stages"] = {"ingest_events": summary["stages"]["ingest_events"]}
    page = render(summary, figures.recorded()[:2], None, "")
    assert "Nothing has been published yet" in page
    assert "No line was rejected" in page
    assert "<svg" not in page


def test_drawings_are_well_formed_and_take_the_pages_colours():
    for drawing in (
        charts.curves({"a": [(0, 1.0), (5, 0.5)], "b": [(0, 0.2)]}, "step", "loss", "o"),
        charts.against([(0.1, 0.2), (0.3, 0.2)], "foretold", "observed"),
        charts.bars(["x", "y"], {"ours": [0.1, 0.2], "theirs": [0.3, 0.0]}, "recall"),
        charts.intervals([("up", 0.02, 0.01, 0.03), ("down", -0.02, -0.03, -0.01), ("none", 0, -1, 1)], "gain"),
    ):
        ET.fromstring(drawing)
        assert "var(--c1)" in drawing
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing)
    many = charts.curves({f"line{n}": [(0, 1.0), (5, float(n))] for n in range(30)}, "step", "loss")
    assert all(f">line{n}<" in many for n in range(30)), "none is left out for want of a colour"
    same = [charts.intervals([("up", 0.02, 0.01, 0.03)], "gain") for _ in range(2)]
    assert same[0] == same[1]


def test_titles_with_dollars_are_no_formulas():
    titles = ["cheap $ \\frac{$", "$x_1$"]
    drawn = charts.curves({title: [(0.0, 1.0), (1.0, 2.0)] for title in titles}, "$ a $ b", "y")
    drawn += charts.intervals([(title, 0.1, 0.0, 0.2) for title in titles], "x")
    drawn += charts.bars(titles, {title: [1.0, 2.0] for title in titles}, "y")
    assert all(drawn.count(title) >= 3 for title in titles)


def test_headline_names_figures_and_places(tmp_path):
    config = load_config("conf/test.yaml", [f"output.dir={tmp_path}", f"lake.root={tmp_path}/lake"])
    write_json(tmp_path / SUMMARY, figures.summary())
    text = headline(config)
    for part in (
        "0.300",
        "(1,480 users, 3,402 items known on the test day)",
        "0.180",
        "0.220",
        "0.7185 -> 0.7297",
        "+0.0112",
        "4,312 MiB",
        f"{tmp_path}/lake",
        "index.html",
    ):
        assert part in text
    write_json(tmp_path / SUMMARY, figures.summary() | {"retrieval": None, "ranker": None, "release_id": None})
    assert "none yet" in headline(config)


def test_numbers_for_readers():
    assert [number(1234), number(0.12345), number(None), number(2.0, 0)] == ["1,234", "0.123", "–", "2"]
    assert [plain(3480.0), plain(0.5), plain(None)] == ["3,480", "0.500", "–"]
    assert [signed(0.01), signed(-0.01), signed(None)] == ["+0.0100", "−0.0100", "–"]


HELD_AND_FREED = """
block = bytearray(b"x") * (200 << 20)
print("held", flush=True)
input()
del block
print("freed", flush=True)
input()
"""


FORKED = """
import os
block = bytearray(b"x") * (200 << 20)
told, tell = os.pipe()
if os.fork() == 0:
    os.close(tell)
    os.read(told, 1)  # until the parent has ended
    os._exit(0)
print("forked", flush=True)
input()
"""


@pytest.mark.process
def test_peak_memory_counts_a_process_that_was_just_forked_once():
    with Popen([sys.executable, "-c", FORKED], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdout.readline() == "forked\n"
        with PeakMemory(sample_seconds=0.01, pid=process.pid) as memory:
            assert 200 < memory.peak_mb < 300
        process.communicate("\n")


@pytest.mark.process
def test_peak_memory_sees_what_is_gone():
    with Popen([sys.executable, "-c", HELD_AND_FREED], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdout.readline() == "held\n"
        with PeakMemory(sample_seconds=0.01, pid=process.pid) as memory:
            held = memory.peak_mb
            process.stdin.write("\n")
            assert process.stdout.readline() == "freed\n"
            assert memory.peak_mb >= held > 200
            assert psutil.Process(process.pid).memory_info().rss >> 20 < held - 150
        process.communicate("\n")
