"""The shipped configs of public data sets, on a few made-up lines in each one's real format."""

import gzip
import json
from datetime import date, datetime

import pytest

from learn_spark.config.ingest import IngestGates
from learn_spark.config.load import load_config
from learn_spark.ingest.catalogue import read_catalogue
from learn_spark.ingest.job import ingest_events
from tests.builders.contexts import make_context
from tests.builders.ingest import read_events
from tests.conftest import CONF

pytestmark = pytest.mark.spark


@pytest.fixture
def load(tmp_path):
    """A function that loads a shipped config with log and catalogue in the test's own folder."""

    def loaded(name):
        config = load_config(CONF / f"{name}.yaml", [f"ingest.path={tmp_path}", f"lake.root={tmp_path}/lake"])
        if config.ingest.items is None:
            return config
        return load_config(
            CONF / f"{name}.yaml",
            [f"ingest.path={tmp_path}", f"ingest.items.path={tmp_path}", f"lake.root={tmp_path}/lake"],
        )

    return loaded


def rows(frame, *columns):
    return sorted((tuple(row) for row in frame.select(*columns).collect()), key=str)


def json_lines(path, *values):
    text = "".join(json.dumps(value) + "\n" for value in values)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def catalogue(spark, config):
    return read_catalogue(spark, config.ingest, [config.ingest.start]).lines


def test_movielens_100k(spark, tmp_path, load):
    (tmp_path / "u.data").write_text("1\t7\t5\t891717742\n2\t7\t3\t891717800\n2\t8\t9\n")
    flags = ["0"] * 19
    flags[1] = flags[15] = "1"
    film = ["7", "Amélie's Été (1995)", "01-Jan-1995", "", "http://x/(1995)", *flags]
    bare = ["8", "Untitled (1996)", "", "", "", *["0"] * 19]
    (tmp_path / "u.item").write_bytes("\n".join(["|".join(film), "|".join(bare), ""]).encode("latin-1"))
    config = load("movielens_100k")
    events = read_events(spark, config)
    assert rows(events.where("reason IS NULL"), "user_id", "item_id", "event_type", "value", "load_day") == [
        ("1", "7", "like", 5.0, date(1998, 4, 4)),
        ("2", "7", "rate", 3.0, date(1998, 4, 4)),
    ]
    assert rows(events.where("reason IS NOT NULL"), "reason", "raw") == [("malformed line", "2\t8\t9")]
    assert rows(catalogue(spark, config), "item_id", "title", "category", "valid_from", "reason") == [
        ("7", "Amélie's Été (1995)", "Action, Sci-Fi", datetime(1997, 9, 20), None),
        ("8", "Untitled (1996)", None, datetime(1997, 9, 20), None),
    ]


def test_movielens_1m(spark, tmp_path, load):
    (tmp_path / "ratings.dat").write_text("1::7::5::978300760\n1::8::1::956600000\n")
    films = "7::Café: the Film (1997)::Comedy|Drama\n8::Two (1998)::War\n9::One too few\n"
    (tmp_path / "movies.dat").write_bytes(films.encode("latin-1"))
    config = load("movielens_1m")
    assert rows(read_events(spark, config), "item_id", "event_type", "reason") == [
        ("7", "like", None),
        ("8", "rate", "time before ingest.start"),
    ]
    found = catalogue(spark, config)
    assert rows(found.where("reason IS NULL"), "item_id", "title", "category") == [
        ("7", "Café: the Film (1997)", "Comedy, Drama"),
        ("8", "Two (1998)", "War"),
    ]
    assert rows(found.where("reason IS NOT NULL"), "reason", "raw") == [("malformed line", "9::One too few")]


def test_movielens_20m(spark, tmp_path, load):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,4.5,1112486027\n1,8,0.5,1112484676\n")
    films = 'movieId,title,genres\n7,"Film, The (1995)",Adventure|Children\n8,"""Quoted"" (1994)",(no genres listed)\n'
    (tmp_path / "movies.csv").write_text(films)
    config = load("movielens_20m")
    assert rows(read_events(spark, config), "item_id", "event_type", "value", "reason") == [
        ("7", "like", 4.5, None),
        ("8", "rate", 0.5, None),
    ]
    assert rows(catalogue(spark, config), "item_id", "title", "category", "reason") == [
        ("7", "Film, The (1995)", "Adventure, Children", None),
        ("8", '"Quoted" (1994)', None, None),
    ]


def test_amazon_2018(spark, tmp_path, load):
    review = {"overall": 5.0, "verified": True, "reviewTime": "10 17, 2015", "reviewerID": "A1", "asin": "0700026657"}
    review |= {"style": {"Format:": " Disc"}, "reviewText": "Fine", "unixReviewTime": 1445040000}
    json_lines(tmp_path / "Video_Games_5.json.gz", review, {**review, "reviewerID": None})
    item = {"category": ["Video Games", "PC", "Games"], "description": [""], "title": "A Game", "brand": "Maker"}
    item |= {"feature": [], "also_buy": [], "price": "$12.99", "asin": "0700026657"}
    dirty = {**item, "asin": "0700099867", "price": ".a-box-inner{background-color:#fff}", "category": []}
    json_lines(tmp_path / "meta_Video_Games.json.gz", item, dirty)
    config = load("amazon_2018")
    assert rows(read_events(spark, config), "user_id", "item_id", "event_ts", "value", "reason") == [
        ("A1", "0700026657", datetime(2015, 10, 17), 5.0, None),
        (None, "0700026657", datetime(2015, 10, 17), 5.0, "missing user"),
    ]
    assert rows(catalogue(spark, config), "item_id", "category", "brand", "price", "keywords", "reason") == [
        ("0700026657", "Video Games, PC, Games", "Maker", 12.99, None, None),
        ("0700099867", None, "Maker", None, None, None),
    ]


def test_amazon_2023(spark, tmp_path, load):
    review = {"rating": 4.0, "title": "Good", "text": "…", "images": [], "asin": "B07A", "parent_asin": "B07P"}
    review |= {"user_id": "AE22", "timestamp": 1546571902000, "helpful_vote": 0, "verified_purchase": True}
    json_lines(tmp_path / "Video_Games.jsonl", review)
    item = {"main_category": "Video Games", "title": "A Pad", "average_rating": 4.2, "rating_number": 8, "price": None}
    item |= {"features": ["Wired", "2 m, black"], "description": [], "store": "Maker", "categories": ["PC", "Pads"]}
    item |= {"details": {"Best Sellers Rank": {"Pads": 9}}, "parent_asin": "B07P", "bought_together": None}
    json_lines(tmp_path / "meta_Video_Games.jsonl", item, {**item, "parent_asin": "B07Q", "price": 14.5})
    config = load("amazon_2023")
    assert rows(read_events(spark, config), "user_id", "item_id", "event_ts", "value", "reason") == [
        ("AE22", "B07P", datetime(2019, 1, 4, 3, 18, 22), 4.0, None)
    ]
    found = rows(catalogue(spark, config), "item_id", "category", "keywords", "price", "attributes", "reason")
    attributes = {"main category": "Video Games"}
    assert found == [
        ("B07P", "PC, Pads", "Wired, 2 m, black", None, attributes, None),
        ("B07Q", "PC, Pads", "Wired, 2 m, black", 14.5, attributes, None),
    ]


def test_kuairand_gives_several_events_a_row(spark, tmp_path, load):
    names = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
    more = "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
    lines = [
        "0,39,20220421,400,1650485801301,1,1,0,0,0,0,1,151024,104400,0,0,0,0,1",
        "0,40,20220421,400,1650485801302,0,0,0,0,0,0,0,0,9000,0,0,0,0,1",
        ",41,20220421,400,1650485801303,1,1,0,0,0,0,1,1,9000,0,0,0,0,1",
        "0,42,20220421,400,1650485801304,yes,0,0,0,0,0,0,0,9000,0,0,0,0,1",
    ]
    (tmp_path / "log_standard_4_08_to_4_21_1k.csv").write_text("\n".join([f"{names},{more}", *lines, ""]))
    (tmp_path / "kuairand_video_captions.csv").write_text(
        "final_video_id,caption,show_cover_text\n39,标题 #生活,封面\n40,,\n"
    )
    config = load("kuairand")
    events = read_events(spark, config).collect()
    said = sorted((row.item_id, row.event_type) for row in events if row.reason is None)
    assert said == [("39", "click"), ("39", "impression"), ("39", "like"), ("39", "long_view"), ("40", "impression")]
    assert sorted(row.reason for row in events if row.reason) == ["missing user", "unparsable flag"]
    assert len({row.event_id for row in events}) == len(events)
    assert {row.load_day for row in events} == {date(2022, 4, 20)}
    assert {row.value for row in events if row.item_id == "39"} == {151024.0}
    assert rows(catalogue(spark, config), "item_id", "title", "keywords", "reason") == [
        ("39", "标题 #生活", "封面", None),
        ("40", None, None, "empty description"),
    ]


def test_a_plain_csv_through_the_whole_job(spark, tmp_path, load):
    lines = [
        "item_id,user_id,event_ts,event_type,title,channel",
        "a,1,2024-03-01 10:00:00,view,A Lamp,web",
        "a,1,2024-03-01T10:05:00+01:00,purchase,A Lamp,app",
        "a,1,2024-03-01 10:00:00,view,A Lamp,app",
        "a,1,2024-03-01 10:00:00,share,A Lamp,app",
    ]
    (tmp_path / "events.csv").write_text("\n".join([*lines, ""]))
    config = load("csv")
    ingest = config.ingest.model_copy(update={"gates": IngestGates(max_reject_share=1.0)})
    context = make_context(spark, config.model_copy(update={"ingest": ingest}))
    result = ingest_events(context, [date(2024, 3, 1)])
    assert (result.rows_out, result.details["duplicates"]) == (2, 1)
    assert result.details["rejects"] == {"unknown event type": 1}
    assert result.details["unmapped_columns"] == ["channel"]
    assert rows(context.tables.read("interactions"), "event_ts", "event_type") == [
        (datetime(2024, 3, 1, 10), "view"),
        (datetime(2024, 3, 1, 9, 5), "purchase"),
    ]
