"""Towers: causality by gradients, padding, batch scoring, the item towers."""

import numpy as np
import pytest
import torch

from models.content import ContentMatrix
from models.settings import TowersConfig
from models.towers import Towers
from tests.builders.tensors import write_matrix

ITEM_TOWERS = ["shared_causal", "shared_self", "mlp", "content"]
DIM = 12


def make(**settings):
    torch.manual_seed(0)
    defaults = {"d_model": 16, "heads": 2, "out_dim": 8, "max_len": 10, "dropout": 0.0}
    model = Towers(TowersConfig(**(defaults | settings)), DIM).eval()
    # A residual tower starts as the bare projection; make it depend on everything.
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


@pytest.fixture
def content(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(21, DIM))
    vectors[0] = 0
    return ContentMatrix(write_matrix(tmp_path / "matrix", vectors))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("side", ["users", "items"])
def test_no_position_sees_a_later_one(side, residual, pooling):
    model = make(pooling=pooling, content_residual=residual)
    length = 6
    content_UC = torch.randn(length, DIM, requires_grad=True)
    out = getattr(model, side)(content_UC, torch.arange(length)[None])
    weights = torch.randn(out.shape[-1])
    for position in range(length):
        (grad,) = torch.autograd.grad(out[0, position] @ weights, content_UC, retain_graph=True)
        assert not grad[position + 1 :].any()
        # Items see what is before them by attention only; a user's vector always mixes the whole past.
        assert grad[: position + 1].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("item_tower", ["shared_self", "mlp", "content"])
def test_items_that_see_only_themselves(item_tower):
    model = make(item_tower=item_tower)
    content_UC = torch.randn(5, DIM)
    together = model.items(content_UC, torch.tensor([[3, 1, 4, 1]]))
    torch.testing.assert_close(together[0], model.items_alone(content_UC)[[3, 1, 4, 1]])


@pytest.mark.parametrize("residual", [False, True])
def test_with_one_target_shared_causal_equals_shared_self(residual):
    causal = make(item_tower="shared_causal", content_residual=residual)
    alone = make(item_tower="shared_self", content_residual=residual)
    alone.load_state_dict(causal.state_dict())
    content_UC, tar_BT = torch.randn(7, DIM), torch.arange(7)[:, None]
    torch.testing.assert_close(causal.items(content_UC, tar_BT), alone.items(content_UC, tar_BT))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("residual", [False, True])
def test_padding_and_company_never_change_a_user(content, residual, pooling):
    model = make(pooling=pooling, content_residual=residual)
    histories = [[5], [7, 3, 3, 12, 20], [], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    rows = np.zeros((4, 10), np.int32)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = history
    together = model.embed_users(rows, np.array([len(h) for h in histories]), content, batch_size=3)
    for history, vector in zip(histories, together, strict=True):
        alone = model.embed_users(np.array([history], np.int32), np.array([len(history)]), content)
        np.testing.assert_allclose(vector, alone[0], atol=2e-6)
    assert together.dtype == np.float32 and not together[2].any()


@pytest.mark.parametrize("item_tower", ITEM_TOWERS)
def test_scoring_gives_logits_as_plain_inner_products(content, item_tower):
    model = make(item_tower=item_tower, content_residual=True, temperature=0.1)
    hist, length = np.array([[4, 9, 2], [8, 0, 0]]), np.array([3, 1])
    user, item = model.embed_users(hist, length, content), model.embed_items(np.arange(21), content, 4)
    assert user.shape == (2, 8) and item.shape == (21, 8) and item.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(user, axis=1) ** 2, 10, rtol=1e-5)
    rows_UC, hist_BH = content.unique(hist)
    with torch.inference_mode():
        users = model.users(rows_UC, hist_BH)[torch.arange(2), torch.tensor([2, 0])]
        items = model.items_alone(content.gather(np.arange(21)))
    np.testing.assert_allclose(user @ item.T, (10 * users @ items.T).numpy(), atol=1e-4)


def test_the_residual_tower_starts_as_mean_content(content):
    model = Towers(TowersConfig(d_model=16, heads=2, content_residual=True), DIM).eval()
    rows_UC = content.gather(np.array([1, 2, 3]))
    unit = torch.nn.functional.normalize(rows_UC, dim=-1)
    projected = model.residual(unit)
    users = model.users(rows_UC, torch.tensor([[0, 1, 2]]))
    mean = torch.nn.functional.normalize(projected.mean(0), dim=-1)
    torch.testing.assert_close(users[0, 2], mean)
    torch.testing.assert_close(model.residual.weight.T @ model.residual.weight, torch.eye(DIM), atol=1e-5, rtol=0)


def test_too_long_a_history_is_an_error(content):
    model = make(max_len=3)
    with pytest.raises(ValueError, match="history of 4 items.*max_len 3"):
        model.embed_users(np.ones((1, 4), int), np.array([4]), content)
    with pytest.raises(ValueError, match="max_len is 3"):
        model.users(torch.randn(2, DIM), torch.zeros(1, 4, dtype=torch.long))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="d_model 10 is not a multiple of heads 4"):
        TowersConfig(d_model=10)
    with pytest.raises(ValueError, match="item_tower"):
        TowersConfig(item_tower="variant_1")
