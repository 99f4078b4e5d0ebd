"""The usual names of a log's and a catalogue's columns."""

import re
from collections.abc import Iterable

NAMES = {
    "user_id": "user_id|userid|user|customer_?id|customer|cust_?id|reviewer_?id|visitor_?id|member_?id|client_?id"
    "|account_?id|uid|buyer_?id|viewer_?id|profile_?id|person_?id|household_?key|msno|kunden?(_?nr|_?id)?|username|user_?name|nick"
    "|device_?id|anonymous_?id|cookie_?id|session_?id|session",
    "item_id": "item_id|itemid|item|parent_asin|asin|product_?id|product|video_?id|movie_?id|stock_?code|sku(_?id)?"
    "|article_?id|artikel(_?nr|_?id)?|photo_?id|goods_?id|book_?id|track_?id|song_?id|business_?id|news_?id|content_?id"
    "|listing_?id|hotel_?id|recipe_?id|post_?id|game_?id|app_?id|ad_?id|aid|iid|pid|isbn|movie|article|song|track|book",
    "event_ts": "event_ts|event_time(stamp)?|event_?at|timestamp|time_ms|unixreviewtime|datetime|created_?at|created"
    "|t_dat|invoice_?date|order_?date|purchase_?date|event_?date|review_?date|date_?added|occurred_?at|sent_?at|time|ts"
    "|dt|when|datum|date|reviewtime",
    "event_type": "event_type|event_?name|event|action(_?type)?|behaviou?r_?type|behaviou?r|interaction_?type"
    "|verb|type",
    "value": "rating|overall|score|stars|quantity|qty|value|amount|play_time_ms|dwell_?time",
    "title": "title|item_?title|item_?name|product_?name|product_?title|prod_?name|movie_?title|track_?name"
    "|traname|headline|name|bezeichnung"
    "|caption|description|desc|titel|título"
    "|название|标题|商品名称",
    "category": "category|item_?category|category_?name|category_?code|categories|genres?|main_category"
    "|product_?type_?name|department|kategorie|aisle|类目",
    "brand": "brand|brand_?name|store|manufacturer|vendor|marke|publisher",
    "price": "price|unit_?price|preis|list_?price|prix",
    "keywords": "keywords?|tags?|features?|labels?",
    "valid_from": "valid_?from|updated_?at|effective_?(from|date)",
}
_OF_PEOPLE = re.compile(r"^(user|customer|traits|account|author|reviewer|visitor|profile|owner|seller)", re.IGNORECASE)


def forms(name: str) -> list[str]:
    """A column's name, and the last part of a path that does not lead to people; in lower case with underscores."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    whole, last = plain.replace(".", "_"), plain.rsplit(".", 1)[-1]
    parents = plain.split(".")[:-1]
    return [whole] if any(_OF_PEOPLE.match(part) for part in parents) or not parents else [whole, last]


def named(role: str, columns: Iterable[str]) -> str | None:
    """The column whose name is the most usual for a role; of equally usual ones, the shortest path."""
    found = ranked(role, columns)
    return found[0] if found else None


def ranked(role: str, columns: Iterable[str]) -> list[str]:
    """The columns whose names are usual for a role, the most usual first."""
    order = re.findall(r"(?:[^|(]|\([^)]*\))+", NAMES[role])
    hits: list[tuple[int, int, int, str]] = []
    for place, name in enumerate(columns):
        rank = min((order.index(p) for p in order for form in forms(name) if re.fullmatch(p, form)), default=None)
        if rank is not None:
            hits.append((rank, name.count("."), place, name))
    return [name for *_, name in sorted(hits)]
