"""The shipped configs of public layouts, each on a few made-up lines of its real files: all in one job."""

import json
from datetime import datetime

import pyarrow as pa
import pytest

from learn_spark.config.load import load_config
from learn_spark.ingest.catalogue import read_catalogue
from tests.builders.ingest import events_of_cases
from tests.builders.logs import write_files
from tests.conftest import CONF

pytestmark = pytest.mark.spark

NEWS = 'N1\tnews\tnewsus\tA "quoted\tAn abstract\thttps://x\t[]\t[]\n'
SHOWN = "1\tU1\t11/11/2019 9:05:58 AM\tN7 N8\tN1-1 N2-0\n"
PROPERTIES = (
    "timestamp,itemid,property,value\n1431226800000,5,888,a b\n1431831600000,5,888,c d\n1431831600000,5,790,n9.5\n"
)
ARTICLE = "article_id,prod_name,product_type_name,colour_group_name,section_name,detail_desc\n"
ARTICLE += '0108775015,Strap top,Vest top,Black,Womens,"Jersey top, narrow"\n'
SALE = "2018-09-20,c1,0108775015,0.0508,2\n"
SESSION = {
    "session": 3,
    "events": [{"aid": 9, "ts": 1659304800025, "type": "clicks"}, {"aid": 9, "ts": 1659304800026, "type": "orders"}],
}
REVIEW = {
    "review_id": "r",
    "user_id": "_u",
    "business_id": "-b",
    "stars": 4.0,
    "text": "a\nb",
    "date": "2018-07-07 22:09:11",
}
SHELF = {
    "user_id": "8842",
    "book_id": "24",
    "review_id": "5c",
    "is_read": False,
    "rating": 0,
    "date_added": "Wed Mar 01 02:05:14 -0700 2017",
}
BUSINESS = {"business_id": "-b", "name": "A\nCafé", "categories": "Tea, Food", "city": "Reno", "state": "NV"}
BOOK = {"book_id": "24", "title": "A Book", "publisher": "P", "description": "Long"}
PLAYED = pa.table(
    {"uid": pa.array([1], pa.uint32()), "timestamp": pa.array([5], pa.uint32()), "item_id": pa.array([2], pa.uint32())}
)
ADS = [{"item_id": 20000000029, "action_type": kind, "timestamp": 1746421490 + kind} for kind in (0, 1)]
SHOWN_ADS = pa.table({"user_id": [5], "seq": [ADS]})
CLIP = pa.table(
    {"user_id": pa.array([7], pa.uint32()), "item_id": pa.array([3_000_000_000], pa.uint32())}
    | {"place": pa.array([0], pa.uint8()), "timespent": pa.array([38], pa.uint8())}
    | {name: [name == "like"] for name in ("like", "dislike", "share", "bookmark", "click_on_author", "open_comments")}
)
LISTEN = 'user_000001\t2009-05-04T23:08:57Z\tf1\tDeep Dish\tt1\t"So\n'
LAYOUTS = {  # config: its files; its events as user, item, type, time; an item as id, title, category
    "mind": (
        {"MINDsmall_train/behaviors.tsv": SHOWN, "MINDsmall_train/news.tsv": NEWS},
        {
            ("U1", "N1", "click", datetime(2019, 11, 11, 9, 5, 58)),
            ("U1", "N2", "impression", datetime(2019, 11, 11, 9, 5, 58)),
        },
        ("N1", 'A "quoted', "news"),
    ),
    "taobao": (
        {"UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n"},
        {("1", "2268318", "view", datetime(2017, 11, 24, 17, 21, 10))},
        None,
    ),
    "retailrocket": (
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,5,\n",
            "item_properties_part1.csv": PROPERTIES,
        },
        {("257597", "5", "view", datetime(2015, 6, 2, 5, 2, 12, 117000))},
        ("5", "c d", None),
    ),
    "hm": (
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n" + SALE,
            "articles.csv": ARTICLE,
        },
        {("c1", "0108775015", "purchase", datetime(2018, 9, 20))},
        ("0108775015", "Strap top", "Vest top"),
    ),
    "otto": (
        {"otto-recsys-train.jsonl": json.dumps(SESSION) + "\n"},
        {
            ("3", "9", "clicks", datetime(2022, 7, 31, 22, 0, 0, 25000)),
            ("3", "9", "orders", datetime(2022, 7, 31, 22, 0, 0, 26000)),
        },
        None,
    ),
    "yoochoose": (
        {
            "yoochoose-clicks.dat": "1,2014-04-07T10:51:09.277Z,214536502,0\n",
            "yoochoose-buys.dat": "1,2014-04-07T10:51:09.277Z,214536502,12462,1\n",
        },
        {("1", "214536502", kind, datetime(2014, 4, 7, 10, 51, 9, 277000)) for kind in ("click", "purchase")},
        None,
    ),
    "lastfm_1k": (
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": LISTEN,
        },
        {("user_000001", "t1", "listen", datetime(2009, 5, 4, 23, 8, 57))},
        None,
    ),
    "yelp": (
        {
            "yelp_academic_dataset_review.json": json.dumps(REVIEW),
            "yelp_academic_dataset_business.json": json.dumps(BUSINESS),
        },
        {("_u", "-b", "review", datetime(2018, 7, 7, 22, 9, 11))},
        ("-b", "A\nCafé", "Tea, Food"),
    ),
    "goodreads": (
        {
            "goodreads_interactions_poetry.json.gz": json.dumps(SHELF),
            "goodreads_books_poetry.json.gz": json.dumps(BOOK),
        },
        {("8842", "24", "shelve", datetime(2017, 3, 1, 9, 5, 14))},
        ("24", "A Book", None),
    ),
    "yambda": (
        {"listens.parquet": PLAYED, "likes.parquet": PLAYED.select(["uid", "timestamp", "item_id"])},
        {("1", "2", kind, datetime(2024, 1, 1, 0, 0, 5)) for kind in ("listen", "like")},
        None,
    ),
    "microlens": (
        {
            "MicroLens-50k_pairs.csv": "user,item,timestamp\n1,4,1660044821000\n",
            "MicroLens-50k_titles.csv": "item,title\n4,Cats\n",
        },
        {("1", "4", "click", datetime(2022, 8, 9, 11, 33, 41))},
        ("4", "Cats", None),
    ),
}


LAYOUTS |= {
    "instacart": (
        {
            "orders.csv": "order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,days_since_prior_order\n"
            "9,7,prior,1,2,08,\n4,7,train,2,3,07,15.0\n",
            "order_products__prior.csv": "order_id,product_id,add_to_cart_order,reordered\n9,33120,1,0\n",
            "order_products__train.csv": "order_id,product_id,add_to_cart_order,reordered\n4,33120,1,1\n",
            "products.csv": "product_id,product_name,aisle_id,department_id\n33120,Organic Egg Whites,86,16\n",
            "aisles.csv": "aisle_id,aisle\n86,eggs\n",
            "departments.csv": "department_id,department\n16,dairy eggs\n",
        },
        {("7", "33120", "order", datetime(2017, 1, 2)), ("7", "33120", "order", datetime(2017, 1, 3))},
        ("33120", "Organic Egg Whites", "eggs"),
    ),
    "tencentgr": (
        {"seq/part-0.parquet": SHOWN_ADS},
        {
            ("5", "20000000029", "exposure", datetime(2025, 5, 5, 5, 4, 50)),
            ("5", "20000000029", "click", datetime(2025, 5, 5, 5, 4, 51)),
        },
        None,
    ),
    "vk_lsvd": (
        {"train/week_02.parquet": CLIP},
        {("7", "3000000000", kind, datetime(2025, 1, 20)) for kind in ("view", "like")},
        None,
    ),
    "tmall": (
        {
            "user_log_format1.csv": "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
            "328862,323294,833,2882,2661.0,829,0\n328862,323294,833,2882,,1111,2\n"
        },
        {
            ("328862", "323294", "click", datetime(2014, 8, 29)),
            ("328862", "323294", "purchase", datetime(2014, 11, 11)),
        },
        None,
    ),
}


def laid_out(folder, name):
    write_files(folder / name, LAYOUTS[name][0])
    config = load_config(CONF / f"{name}.yaml", [f"ingest.path={folder / name}"])
    if config.ingest.items is None:
        return config
    return load_config(CONF / f"{name}.yaml", [f"ingest.path={folder / name}", f"ingest.items.path={folder / name}"])


def test_public_layouts(spark, tmp_path):
    configs = {name: laid_out(tmp_path, name) for name in LAYOUTS}
    found = events_of_cases(spark, configs)
    events = {name: {(r.user_id, r.item_id, r.event_type, r.event_ts) for r in rows} for name, rows in found.items()}
    assert events == {name: wanted for name, (_, wanted, _) in LAYOUTS.items()}
    assert {name: {row.reason for row in rows} for name, rows in found.items()} == dict.fromkeys(LAYOUTS, {None})
    catalogues = []
    for name in configs:
        if LAYOUTS[name][2]:
            read = read_catalogue(spark, configs[name].ingest, [configs[name].ingest.start])
            catalogues.append(read.lines.select("item_id", "title", "category", "reason"))
    items = {tuple(row) for frame in catalogues for row in frame.collect()}
    assert items == {(*item, None) for _, _, item in LAYOUTS.values() if item}
