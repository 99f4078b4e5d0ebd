"""Prompts worked out by hand: the text that each template makes of an item, and the normalisation of texts."""

import hashlib

import pytest
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from learn_spark.embedding.prompts import TEMPLATES, normalised, text_hash
from learn_spark.lake.schemas import ITEMS
from tests.builders.items import item_row

pytestmark = pytest.mark.spark


def evaluated(spark: SparkSession, texts: list[str | None], column: Column) -> list[str | None]:
    frame = spark.createDataFrame([(place, text) for place, text in enumerate(texts)], "place int, text string")
    return [row[0] for row in frame.orderBy("place").select(column).collect()]


def rendered(spark: SparkSession, name: str, *rows: tuple) -> list[str]:
    frame = spark.createDataFrame(list(rows), ITEMS.columns_ddl).coalesce(1)
    return [row[0] for row in frame.select(TEMPLATES[name].render()).collect()]


def test_normalised(spark: SparkSession) -> None:
    expected = {
        "WHITE METAL LANTERN": "WHITE METAL LANTERN",
        "  two   spaces\t tab\r\n line ": "two spaces tab line",
        "bell\x07and null\x00": "bell and null",
        "no\u00a0break\u3000wide\u2028line": "no break wide line",
        "zero\u200bwidth\ufeff and soft\u00adhyphen": "zerowidth and softhyphen",
        "\u202eabc\u202c": "abc",
        "ＦＵＬＬ　ｗｉｄｔｈ！": "FULL width!",
        "ｱｲ m² ①": "アイ m2 1",
        "👩‍👧 مصباح": "👩‍👧 مصباح",
        "中文商品": "中文商品",
        "<p>Tea &amp; <b>Cake</b><br/>set</p>": "Tea & Cake set",
        "<div class='x'>lamp</div><!-- old --><style>p {a: b}</style>": "lamp",
        "caf&eacute; &#39;x&#x27; &#20013;&#x1F375; &lt;b&gt;hot&lt;/b&gt;": "café 'x' 中🍵 hot",
        "a < b, <3, size <XL>, R&D; AT&T &unknown; &#0;": "a < b, <3, size <XL>, R&D; AT&T &unknown; \ufffd",
        "a;b &amp;amp; c": "a;b &amp; c",
        "\u200b \t": None,
        "": None,
    }
    got = evaluated(spark, [*expected, None], normalised(F.col("text")))
    assert dict(zip([*expected, None], got, strict=True)) == {**expected, None: None}


def test_invalid_utf8_is_replaced_not_passed_on(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(bytearray(b"lamp \xff\xfe red"),)], "raw binary")
    assert frame.select(normalised(F.col("raw").cast("string"))).first()[0] == "lamp \ufffd\ufffd red"


def test_title_is_lower_case_with_a_full_stop(spark: SparkSession) -> None:
    rows = [item_row("A", "2011-11-01", " WHITE  Lantern", price=2.5), item_row("B", "2011-11-01", "\u200b")]
    assert rendered(spark, "title", *rows) == ["white lantern.", ""]


WHOLE = item_row(
    "A",
    "2011-11-01",
    "Red  Mug",
    category="Kitchen",
    brand="ACME",
    price=1234.5,
    keywords="mug, tea",
    attributes={"size": "L", "colour": " red ", "empty": " ", "none": None},
)


def test_industrial_has_six_fields_each_where_there_is_one(spark: SparkSession) -> None:
    bare = item_row("B", "2011-11-01", "Lamp", category=" ", attributes={})
    odd = item_row("C", "2011-11-01", "<p></p>", price=float("nan"), brand="ACME", attributes={"x": None})
    nothing = item_row("D", "2011-11-01", " ")
    assert rendered(spark, "industrial", WHOLE, bare, odd, nothing) == [
        "title: Red Mug\ncategory: Kitchen\nbrand: ACME\nprice: 1234.50\nkeywords: mug, tea\n"
        "attributes: colour: red; size: L",
        "title: Lamp",
        "brand: ACME",
        "",
    ]


def test_other_templates_name_the_same_fields(spark: SparkSession) -> None:
    expected = {
        "brief": "title: Red Mug\ncategory: Kitchen\nbrand: ACME",
        "brief_zh": "标题：Red Mug\n类目：Kitchen\n品牌：ACME",
        "industrial_zh": "标题：Red Mug\n类目：Kitchen\n品牌：ACME\n价格：1234.50\n关键词：mug, tea\n"
        "属性：colour: red; size: L",
    }
    assert {name: rendered(spark, name, WHOLE)[0] for name in expected} == expected


def test_a_million_hostile_characters_are_normalised_in_linear_time(spark: SparkSession) -> None:
    for piece, cleaned in (("<!--", "<!--"), ("<script>", ""), ("&amp;", "&"), ("lamp ", "lamp ")):
        count = 1_000_000 // len(piece)
        frame = spark.range(1).select(F.repeat(F.lit(piece), F.lit(count)).alias("text"))
        clean = frame.select(F.coalesce(F.length(normalised(F.col("text"))), F.lit(0))).first()[0]
        assert clean == len((cleaned * count).strip())


def test_order_of_attributes_changes_no_prompt(spark: SparkSession) -> None:
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    rows = [item_row("A", "2011-11-01", "Mug", attributes=attributes) for attributes in (one, other)]
    first, second = rendered(spark, "industrial", *rows)
    assert first == second


def test_text_hash_is_sha256_over_version_and_prompt(spark: SparkSession) -> None:
    (got,) = evaluated(spark, ["中文 mug."], text_hash("title-1", F.col("text")))
    assert got == hashlib.sha256("title-1\n中文 mug.".encode()).hexdigest()
