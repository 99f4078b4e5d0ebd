"""The all-action loss against a double loop in fp64 that shares no code with it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract.settings import LossConfig
from models.towers import losses
from models.towers.losses import Candidates, all_action_info_nce, recency_weights, sample_positions
from models.towers.repeats import HeldCandidates, is_held, once


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


def tiled(anchor, target, is_anchor, is_target, scale, user, item=None, log_q=None):
    """This project's loss, with the arguments of the double loop."""
    bias = None if log_q is None else -log_q
    candidates = Candidates.in_batch(target, is_target, user, item, bias)
    own = None if item is None else item.masked_fill(~is_target, -1)
    return all_action_info_nce(anchor, target, is_anchor, is_target, scale, candidates, user, bias, own)


def plain(anchor, target, is_anchor, is_target, scale):
    return tiled(anchor, target, is_anchor, is_target, scale, torch.arange(len(anchor)))


def value_and_gradients(function, leaves, *others, **named):
    leaves = [x.clone().requires_grad_() for x in leaves]
    anchor, target, scale, *log_q = leaves
    is_anchor, is_target, user, item = others
    loss = function(anchor, target, is_anchor, is_target, scale, user, item, *log_q, **named)
    return loss, *torch.autograd.grad(loss, leaves)


@pytest.fixture(params=[(256, 1024), (3, 4)], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setitem(losses.TILES, "cpu", request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("with_items", [False, True])
@pytest.mark.parametrize("with_log_q", [False, True])
@pytest.mark.parametrize("user", [[0, 1, 2, 3], [7, 8, 7, 9]])
def test_value_and_gradients_equal_the_double_loop(seed, with_items, with_log_q, user):
    anchor, target, is_anchor, is_target, item, log_q = batch(seed)
    leaves = [anchor, target, torch.tensor(1.7, dtype=torch.float64)] + ([log_q] if with_log_q else [])
    others = (is_anchor, is_target, torch.tensor(user), item if with_items else None)
    ours, theirs = (value_and_gradients(function, leaves, *others) for function in (tiled, brute_force))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_masks_users_and_items_equal_the_double_loop(data):
    users, anchors, targets = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)))
    anchor, target, is_anchor, is_target, item, log_q = batch(data.draw(st.integers(0, 99)), users, anchors, targets)
    flags = st.lists(st.booleans(), min_size=users, max_size=users)
    is_anchor[:, -1], is_target[:, -1] = torch.tensor(data.draw(flags)), torch.tensor(data.draw(flags))
    is_anchor[0, 0] = is_target[0, 0] = True
    user = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=users, max_size=users)))
    others = (is_anchor, is_target, user, item if data.draw(st.booleans()) else None)
    leaves = [anchor, target, torch.tensor(1.7, dtype=torch.float64), log_q]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.TILES, "cpu", data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5))))
        ours, theirs = (value_and_gradients(function, leaves, *others) for function in (tiled, brute_force))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mask_false_negatives", [False, True])
@pytest.mark.parametrize("user", [[0, 1, 2, 3], [7, 8, 7, 9]])
def test_merged_duplicates_change_nothing(seed, mask_false_negatives, user):
    anchor, _, is_anchor, is_target, item, _ = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    vector_IK = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    log_q_I = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    own = item.masked_fill(~is_target, -1) if mask_false_negatives else None
    user, found = torch.tensor(user), []
    for merge in (False, True):
        candidates = Candidates.in_batch(vector_IK[item], is_target, user, item, log_q_I[item], merge)
        assert (len(candidates.vector_MK) < is_target.sum()) == merge
        rows = (anchor, vector_IK[item], is_anchor, is_target, 1.7)
        loss = all_action_info_nce(*rows, candidates, user, log_q_I[item], own)
        found.append((loss, *torch.autograd.grad(loss, (vector_IK, log_q_I))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mask_false_negatives", [False, True])
@pytest.mark.parametrize("merge", [False, True])
def test_what_a_history_holds_has_its_bias_in_both_places(seed, mask_false_negatives, merge):
    """Held items get the bias as targets and as negatives; value and gradients equal those of a loop over all pairs."""
    anchor, _, is_anchor, is_target, item, _ = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    vector_IK, user = torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.tensor([7, 8, 7, 9])
    history = torch.randint(0, 6, (4, 3), generator=generator)  # with repeats, and with 0, which is no item
    leaves = [x.requires_grad_() for x in (anchor, vector_IK, torch.tensor(1.3, dtype=torch.float64))]
    own = item.masked_fill(~is_target, -1) if mask_false_negatives else None
    held = HeldCandidates(once(history), leaves[2])
    candidates = Candidates.in_batch(vector_IK[item], is_target, user, item, merge=merge)
    positive_bias = held.bias * is_held(held.item_BH, item)
    rows = (anchor, vector_IK[item], is_anchor, is_target, 1.7)
    ours = all_action_info_nce(*rows, candidates, user, positive_bias, own, held=held)
    terms = []
    for b, n, t in (is_anchor[:, :, None] & is_target[:, None, :]).nonzero().tolist():
        others = [int(item[c, s]) for c, s in is_target.nonzero().tolist() if user[c] != user[b]]
        kept = [i for i in others if own is None or i not in own[b].tolist()]
        logits = [
            1.7 * anchor[b, n] @ vector_IK[i] + (leaves[2] if i in history[b].tolist() else 0.0)
            for i in (int(item[b, t]), *kept)
        ]
        terms.append(torch.stack(logits).logsumexp(0) - logits[0])
    theirs = torch.stack(terms).mean()
    assert any(int(item[b, t]) in history[b].tolist() for b, t in is_target.nonzero().tolist())
    for one, other in zip(*(torch.autograd.grad(x, leaves) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_catalogue_stands_in_the_denominator_but_for_own_items():
    anchor, _, is_anchor, is_target, item, _ = batch()
    vector_IK = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    own = item.masked_fill(~is_target, -1)
    candidates = Candidates(vector_IK, torch.zeros(9).double(), torch.arange(9))
    loss = all_action_info_nce(
        anchor, vector_IK[item], is_anchor, is_target, 1.7, candidates, torch.arange(4), own_item_BL=own
    )
    terms = []
    for b, n, t in (is_anchor[:, :, None] & is_target[:, None, :]).nonzero().tolist():
        logit_I = 1.7 * vector_IK @ anchor[b, n]
        rest = [i for i in range(9) if i not in own[b].tolist()]
        terms.append(torch.logsumexp(logit_I[[int(item[b, t]), *rest]], 0) - logit_I[item[b, t]])
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, vector_IK)[0] for x in (loss, expected)))


def test_candidates_of_other_ranks_equal_one_larger_batch():
    anchor, target, is_anchor, is_target, item, _ = batch()
    user, own = torch.tensor([0, 1, 0, 2]), item.masked_fill(~is_target, -1)
    everything = Candidates.in_batch(target, is_target, user, item)
    pairs = (is_anchor[:, :, None] & is_target[:, None, :]).sum((1, 2))
    parts = [
        all_action_info_nce(
            anchor[rank],
            target[rank],
            is_anchor[rank],
            is_target[rank],
            1.7,
            everything,
            user[rank],
            own_item_BL=own[rank],
        )
        * pairs[rank].sum()
        for rank in (slice(0, 2), slice(2, 4))
    ]
    whole = tiled(anchor, target, is_anchor, is_target, 1.7, user, item)
    torch.testing.assert_close(sum(parts) / pairs.sum(), whole)


def test_saved_bytes_grow_with_the_batch_and_not_with_its_square():
    def saved_bytes(users):
        anchor, target, is_anchor, is_target, item, _ = batch(users=users, anchors=4, targets=4, width=8)
        anchor.requires_grad_()
        target.requires_grad_()
        seen = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = tiled(anchor, target, is_anchor, is_target, torch.tensor(2.0), torch.arange(users), item)
            loss.backward()
        return sum(seen.values())

    small, double, large = saved_bytes(200), saved_bytes(400), saved_bytes(1600)
    assert double < 2.1 * small and large < 8.4 * small
    assert large < (1600 * 4) ** 2 * 8 / 50  # a single matrix of logits


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_touch_the_logits(input_dtype):
    anchor, target, is_anchor, is_target, item, _ = batch(users=20)
    anchor, target = (x.to(input_dtype).requires_grad_() for x in (anchor, target))
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = tiled(anchor, target, is_anchor, is_target, torch.tensor(14.0), torch.arange(20), item)
        found.append((loss, *torch.autograd.grad(loss, (anchor, target))))
    assert found[1][0].dtype == torch.float32
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_own_other_targets_do_not_enter():
    anchor, target, is_anchor, is_target, _, _ = batch()
    is_anchor[:], is_target[:] = False, True
    is_anchor[0, 0] = True
    loss = plain(anchor, target, is_anchor, is_target, 1.0)
    one_by_one = []
    for t in range(target.shape[1]):
        only = is_target.clone()
        only[0] = False
        only[0, t] = True
        one_by_one.append(plain(anchor, target, is_anchor, only, 1.0))
    torch.testing.assert_close(loss, torch.stack(one_by_one).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_negatives_loss_and_gradients_are_zero(dtype):
    anchor, target, is_anchor, is_target, _, _ = batch(users=1)
    anchor, target = anchor.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()
    loss = plain(anchor, target, is_anchor, is_target, 20.0)
    loss.backward()
    assert loss.item() == 0
    assert not anchor.grad.any() and not target.grad.any()


def test_temperature_is_the_scale_of_the_logits():
    anchor, target, is_anchor, is_target, _, _ = batch()
    halved = plain(anchor, target, is_anchor, is_target, 2.0)
    torch.testing.assert_close(halved, plain(2 * anchor, target, is_anchor, is_target, 1.0))


def test_recency_weights_follow_the_formula():
    weight = recency_weights(torch.tensor([4, 1, 0]), 5, 10.0, 10000.0)
    expected = [math.log(10 + i * 9990 / 3) for i in range(4)] + [0.0]
    torch.testing.assert_close(weight[0], torch.tensor(expected))
    torch.testing.assert_close(weight[1], torch.tensor([math.log(10.0), 0, 0, 0, 0]))
    assert not weight[2].any()


def test_equal_alpha_and_beta_sample_at_random():
    config, draws = LossConfig(alpha=10.0, beta=10.0), 100_000
    length = torch.full((draws,), 3)
    position, _ = sample_positions(length, 4, 1, config, torch.Generator().manual_seed(0))
    share = torch.bincount(position.flatten(), minlength=4) / draws
    torch.testing.assert_close(share, torch.tensor([1, 1, 1, 0]) / 3, atol=0.01, rtol=0)


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


@pytest.mark.parametrize("bad", [{"alpha": 0.5}, {"num_anchors": 0}, {"alfa": 10}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError):
        LossConfig(**bad)
