"""SASRec and HSTU for one sequence, by loops in fp64 from the papers' equations; imports nothing of the project.

Weights are arrays by name; matrices have torch's layout (out x in) and multiply from the left.
"""

import math

import numpy as np


def naive_sasrec(weights, items, heads, max_len):
    """States after every item of a sequence (Kang & McAuley 2018, equations 1 to 5): [n, D]."""
    width = weights["item"].shape[1]
    x = [weights["item"][item] + weights["position"][max_len - len(items) + i] for i, item in enumerate(items)]
    for block in weights["blocks"]:
        normed = [layer_norm(row, block["attention_gain"], block["attention_shift"], 1e-5) for row in x]
        attended = []
        for i in range(len(items)):
            parts = []
            for head in range(heads):
                own = slice(head * width // heads, (head + 1) * width // heads)
                query = (block["query"] @ normed[i])[own]
                scores = [query @ (block["key"] @ normed[j])[own] / math.sqrt(width // heads) for j in range(i + 1)]
                shares = np.exp(np.array(scores) - max(scores))
                shares /= shares.sum()
                parts.append(sum(shares[j] * (block["value"] @ normed[j])[own] for j in range(i + 1)))
            attended.append(np.concatenate(parts))
        x = [row + more for row, more in zip(x, attended, strict=True)]
        for i, row in enumerate(x):
            inner = layer_norm(row, block["forward_gain"], block["forward_shift"], 1e-5)
            hidden = np.maximum(block["w1"] @ inner + block["b1"], 0)
            x[i] = row + block["w2"] @ hidden + block["b2"]
    return np.stack([layer_norm(row, weights["gain"], weights["shift"], 1e-5) for row in x])


def naive_hstu(weights, items, times, heads, max_len, temperature):
    """States after every item of a sequence (Zhai et al. 2024, equations 1 to 3), unit length / temperature: [n, D]."""
    width = weights["item"].shape[1]
    x = [math.sqrt(width) * weights["item"][item] + weights["position"][i] for i, item in enumerate(items)]
    for layer in weights["layers"]:
        mixed = [silu(layer["uvqk"] @ layer_norm(row, 1.0, 0.0, 1e-6)) for row in x]
        u, v, q, k = ([row[part * width : (part + 1) * width] for row in mixed] for part in range(4))
        new = []
        for i in range(len(items)):
            attended = np.zeros(width)
            for head in range(heads):
                own = slice(head * width // heads, (head + 1) * width // heads)
                for j in range(i + 1):
                    bucket = int(math.log(max(1, abs(times[i] - times[j]))) / 0.301)
                    bias = layer["by_distance"][i - j] + layer["by_time"][min(bucket, len(layer["by_time"]) - 1)]
                    attended[own] += silu(q[i][own] @ k[j][own] + bias) / max_len * v[j][own]
            gated = layer_norm(attended, 1.0, 0.0, 1e-6) * u[i]
            new.append(x[i] + layer["out"] @ gated + layer["out_bias"])
        x = new
    return np.stack([row / np.linalg.norm(row) / temperature for row in x])


def naive_binary_loss(states, labels, negatives, vectors):
    """The loss of Kang & McAuley's equation 7, averaged over the labels."""
    total = 0.0
    for state, label, negative in zip(states, labels, negatives, strict=True):
        positive, other = (1 / (1 + math.exp(-state @ vectors[item])) for item in (label, negative))
        total -= math.log(positive) + math.log(1 - other)
    return total / len(labels)


def naive_softmax_loss(states, labels, candidates, vectors, held=None, bias=0.0):
    """Mean of -log softmax of each label against its own list of candidates, in which repeats count again.

    `bias` is added to the logits of the items in the position's set `held`.
    """
    total = 0.0
    held = [set()] * len(labels) if held is None else held
    for state, label, others, own in zip(states, labels, candidates, held, strict=True):
        logits = {item: state @ vectors[item] + bias * (item in own) for item in {label, *others}}
        among = sum(math.exp(logits[item]) for item in [label, *(i for i in others if i != label)])
        total -= math.log(math.exp(logits[label]) / among)
    return total / len(labels)


def layer_norm(row, gain, shift, epsilon):
    return (row - row.mean()) / np.sqrt(row.var() + epsilon) * gain + shift


def silu(x):
    return x / (1 + np.exp(-x))
