"""Retrieval baselines and figures by loops over plain lists; imports nothing of the project.

A row is a dict: user_id, hist (item numbers, oldest first), ts (their times), tar (item numbers); with a test day also
bought and seen (item numbers). Item 0 means no item.
"""

import math


def naive_counts(rows, num_items):
    """Counts by item: all targets, the history of each user's shortest row, and 1 for items of other histories only."""
    counts, first = [0] * num_items, {}
    for row in rows:
        for item in row["tar"]:
            counts[item] += 1
        if row["user_id"] not in first or len(row["hist"]) < len(first[row["user_id"]]):
            first[row["user_id"]] = row["hist"]
    for hist in first.values():
        for item in hist:
            counts[item] += 1
    in_history = {item for row in rows for item in row["hist"]}
    return [count or int(item in in_history) for item, count in enumerate(counts)]


def naive_last_item(row, counts):
    """Scores that rank the history's items first, latest first, and then all others by popularity."""
    order = []
    for item in reversed(row["hist"]):
        if item not in order:
            order.append(item)
    return [1000 - order.index(item) if item in order else counts[item] / 1000 for item in range(len(counts))]


def naive_users(rows, num_items):
    """The users of every item, by history or target."""
    users = [set() for _ in range(num_items)]
    for row in rows:
        for item in row["hist"] + row["tar"]:
            users[item].add(row["user_id"])
    return users


def naive_cooccurrence(row, users, decay):
    """Scores: for each event of the history, decay^age times the cosine of the items' sets of users."""
    scores = [0.0] * len(users)
    for place, item in enumerate(row["hist"]):
        weight = decay ** (len(row["hist"]) - 1 - place)
        for other in range(len(users)):
            if other != item and users[item] and users[other]:
                both = len(users[item] & users[other])
                scores[other] += weight * both / math.sqrt(len(users[item]) * len(users[other]))
    return [round(score, 9) for score in scores]


def naive_prior(rows, num_items, days):
    """log(1 + number of history events within `days` days of the latest one), over all rows."""
    latest = max(ts for row in rows for ts in row["ts"])
    counts = [0] * num_items
    for row in rows:
        for item, ts in zip(row["hist"], row["ts"], strict=True):
            counts[item] += ts > latest - days * 86400
    return [math.log(1 + count) for count in counts]


def naive_ranks(rows, scores, keep_seen, candidates=None):
    """{(row number, target): rank} of distinct targets; equal scores rank before the target.

    A row's targets are its `bought`, or else its `tar`; the items that the user had before are its `seen`, or else its
    `hist`. A target that is not among `candidates` (by default all items but 0) has rank infinity.
    """
    ranks = {}
    for number, row in enumerate(rows):
        ranked = set(range(1, len(scores[number])) if candidates is None else candidates)
        hidden = set() if keep_seen else set(row.get("seen", row["hist"]))
        for target in set(row.get("bought", row["tar"])) - hidden if row["hist"] else ():
            others = ranked - hidden - {target}
            higher = sum(scores[number][i] >= scores[number][target] for i in others)
            ranks[number, target] = 1 + higher if target in ranked else math.inf
    return ranks


def naive_figures(ranks, k):
    """Recall and NDCG of the given targets, averaged over rows, and the values of each row."""
    by_row = {}
    for (number, _), rank in ranks.items():
        by_row.setdefault(number, []).append(rank)
    values = {}
    for number, own in by_row.items():
        gain = sum(1 / math.log2(rank + 1) for rank in own if rank <= k)
        ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(own), k) + 1))
        values[number] = (sum(rank <= k for rank in own) / len(own), gain / ideal)
    means = [sum(value[i] for value in values.values()) / len(values) for i in range(2)]
    return means, values
