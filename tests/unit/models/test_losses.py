"""The all-action loss against a double loop in fp64 that shares no code with it."""

import math

import pytest
import torch

from models.losses import all_action_info_nce, recency_weights, sample_positions
from models.settings import LossConfig


def brute_force(anchor, target, is_anchor, is_target, scale, user, item=None, log_q=None):
    """-log(e^s / (e^s + sum of e^s' over other users' targets)), averaged over a user's pairs, by loops."""
    terms = []
    num_users, num_anchors, num_targets = len(anchor), anchor.shape[1], target.shape[1]

    def logit(b, n, c, t):
        value = scale * sum(anchor[b, n, k] * target[c, t, k] for k in range(anchor.shape[2]))
        return value if log_q is None else value - log_q[c, t]

    for b in range(num_users):
        own = {int(item[b, t]) for t in range(num_targets) if is_target[b, t]} if item is not None else set()
        for n in range(num_anchors):
            if not is_anchor[b, n]:
                continue
            negatives = [
                torch.exp(logit(b, n, c, t))
                for c in range(num_users)
                for t in range(num_targets)
                if user[c] != user[b] and is_target[c, t] and (item is None or int(item[c, t]) not in own)
            ]
            for t in range(num_targets):
                if is_target[b, t]:
                    positive = torch.exp(logit(b, n, b, t))
                    terms.append(-torch.log(positive / (positive + sum(negatives))))
    return sum(terms) / len(terms)


def batch(seed=0, users=4, anchors=3, targets=3, width=5):
    generator = torch.Generator().manual_seed(seed)
    anchor = torch.randn(users, anchors, width, generator=generator, dtype=torch.float64)
    target = torch.randn(users, targets, width, generator=generator, dtype=torch.float64)
    is_anchor = torch.rand(users, anchors, generator=generator) < 0.7
    is_target = torch.rand(users, targets, generator=generator) < 0.7
    is_anchor[:, 0], is_target[:, 0] = True, True
    item = torch.randint(1, 6, (users, targets), generator=generator)
    log_q = torch.randn(users, targets, generator=generator, dtype=torch.float64)
    return anchor, target, is_anchor, is_target, item, log_q


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("with_items", [False, True])
@pytest.mark.parametrize("with_log_q", [False, True])
@pytest.mark.parametrize("user", [[0, 1, 2, 3], [7, 8, 7, 9]])
def test_value_and_gradients_equal_the_double_loop(seed, with_items, with_log_q, user):
    anchor, target, is_anchor, is_target, item, log_q = batch(seed)
    scale = torch.tensor(1.7, dtype=torch.float64)
    results = []
    for function in (all_action_info_nce, brute_force):
        leaves = [x.clone().requires_grad_() for x in (anchor, target, scale)]
        loss = function(
            leaves[0],
            leaves[1],
            is_anchor,
            is_target,
            leaves[2],
            torch.tensor(user),
            item if with_items else None,
            log_q if with_log_q else None,
        )
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_own_other_targets_do_not_enter():
    anchor, target, is_anchor, is_target, _, _ = batch()
    is_anchor[:], is_target[:] = False, True
    is_anchor[0, 0] = True
    loss = all_action_info_nce(anchor, target, is_anchor, is_target, 1.0)
    one_by_one = []
    for t in range(target.shape[1]):
        only = is_target.clone()
        only[0] = False
        only[0, t] = True
        one_by_one.append(all_action_info_nce(anchor, target, is_anchor, only, 1.0))
    torch.testing.assert_close(loss, torch.stack(one_by_one).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_negatives_loss_and_gradients_are_zero(dtype):
    anchor, target, is_anchor, is_target, _, _ = batch(users=1)
    anchor, target = anchor.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()
    loss = all_action_info_nce(anchor, target, is_anchor, is_target, 20.0)
    loss.backward()
    assert loss.item() == 0
    assert not anchor.grad.any() and not target.grad.any()


def test_temperature_is_the_scale_of_the_logits():
    anchor, target, is_anchor, is_target, _, _ = batch()
    halved = all_action_info_nce(anchor, target, is_anchor, is_target, 2.0)
    torch.testing.assert_close(halved, all_action_info_nce(2 * anchor, target, is_anchor, is_target, 1.0))


def test_recency_weights_follow_the_formula():
    weight = recency_weights(torch.tensor([4, 1, 0]), 5, 10.0, 10000.0)
    expected = [math.log(10 + i * 9990 / 3) for i in range(4)] + [0.0]
    torch.testing.assert_close(weight[0], torch.tensor(expected))
    torch.testing.assert_close(weight[1], torch.tensor([math.log(10.0), 0, 0, 0, 0]))
    assert not weight[2].any()


def test_sampling_takes_each_position_with_its_exact_probability():
    config, draws = LossConfig(), 200_000
    length = torch.full((draws,), 3)
    position, is_valid = sample_positions(length, 4, 2, config, torch.Generator().manual_seed(0))
    assert is_valid.all() and (position[:, 0] < position[:, 1]).all() and position.max() < 3
    w = [math.log(10 + i * 9990 / 2) for i in range(3)]
    total = sum(w)
    for i in range(3):
        others = [j for j in range(3) if j != i]
        expected = w[i] / total + sum(w[j] / total * w[i] / (total - w[j]) for j in others)
        observed = (position == i).any(1).float().mean().item()
        assert abs(observed - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_short_sequences_give_every_position_once():
    position, is_valid = sample_positions(torch.tensor([2, 0, 5]), 5, 4, LossConfig())
    assert position[0, :2].tolist() == [0, 1]
    assert is_valid.tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
    assert len(set(position[2].tolist())) == 4


@pytest.mark.parametrize("settings", [{"alpha": 0.5}, {"num_hist": 0}, {"alfa": 10}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError):
        LossConfig(**settings)
