"""Towers: causality by gradients, padding, batch scoring, the item towers."""

import numpy as np
import pytest
import torch

from benchmarks.padded import Padded
from models.contract.settings import LossConfig, TowersConfig, check_loss
from models.data.content import ContentMatrix
from models.layers.packing import Packing
from models.layers.transformer import CausalTransformer
from models.towers.towers import Towers
from tests.builders.tensors import write_matrix

ITEM_TOWERS = ["shared_causal", "shared_self", "mlp", "content"]
DIM = 12


def make(**settings):
    torch.manual_seed(0)
    defaults = {"d_model": 16, "heads": 2, "embedding_dim": 8, "max_len": 10, "dropout": 0.0}
    model = Towers(TowersConfig(**(defaults | settings)), DIM, num_items=15).eval()
    # Residual parts start at zero; make the outputs depend on everything.
    torch.nn.init.normal_(model.head.weight, std=0.3)
    for table in (model.id_residual, model.item_bias):
        if table is not None:
            torch.nn.init.normal_(table.weight[1:])
    return model


def everywhere(model, side, content_UC, rows_BL, length_B=None):
    """Outputs at all positions; the distinct items are 1, 2, … in the order of their rows."""
    num_rows, width = rows_BL.shape
    length_B = torch.full((num_rows,), width) if length_B is None else length_B
    input_UC = model.inputs(content_UC, torch.arange(1, len(content_UC) + 1))
    return getattr(model, side)(input_UC, rows_BL, length_B, torch.arange(width).expand(num_rows, -1))


@pytest.fixture
def content(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(21, DIM))
    vectors[0] = 0
    return ContentMatrix(write_matrix(tmp_path / "matrix", vectors))


@pytest.mark.parametrize("user_tower", ["transformer", "pooling_mlp"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("side", ["users", "items"])
def test_no_position_sees_a_later_one(side, residual, pooling, user_tower):
    model = make(pooling=pooling, content_residual=residual, id_residual=residual, user_tower=user_tower)
    length = 6
    content_UC = torch.randn(length, DIM, requires_grad=True)
    out = everywhere(model, side, content_UC, torch.arange(length)[None])
    weights = torch.randn(out.shape[-1])
    for position in range(length):
        (grad,) = torch.autograd.grad(out[0, position] @ weights, content_UC, retain_graph=True)
        assert not grad[position + 1 :].any()
        # An item's vector depends on earlier items only through attention; a user's vector always uses the whole past.
        assert grad[: position + 1].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("side", ["users", "items"])
@pytest.mark.parametrize("user_tower", ["transformer", "pooling_mlp"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_batch_equals_its_sequences_alone_and_so_do_its_gradients(side, user_tower, pooling):
    model = make(user_tower=user_tower, pooling=pooling, content_residual=True, id_residual=True).double()
    lengths, content_UC = [4, 1, 10, 7, 1, 3, 10, 2, 9, 5, 6, 8], torch.randn(14, DIM).double()
    rows_BL, length_B = torch.randint(0, 14, (len(lengths), 10)), torch.tensor(lengths)
    weight_BLK = torch.randn(len(lengths), 10, 8).double()
    together = everywhere(model, side, content_UC, rows_BL, length_B)
    found = [[together[row, :length] for row, length in enumerate(lengths)]]
    found.append([everywhere(model, side, content_UC, rows_BL[[b], :n])[0] for b, n in enumerate(lengths)])
    gradients = []
    for outputs in found:
        loss = sum((out * weight_BLK[row, : len(out)]).sum() for row, out in enumerate(outputs))
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for one, other in zip(found[0] + list(gradients[0]), found[1] + list(gradients[1]), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_the_packed_transformer_equals_the_padded_one():
    torch.manual_seed(0)
    transformer = CausalTransformer(16, 2, 2, 0.0, 12)
    length_B = torch.randint(1, 13, (30,))
    is_real_BL = torch.arange(12) < length_B[:, None]
    x_BLD, weight_BLD = torch.randn(30, 12, 16, requires_grad=True), torch.randn(30, 12, 16)
    found = []
    for packing in (Packing(length_B), Padded(length_B, 12)):
        out_BLD = transformer(packing.packed(x_BLD), packing)[packing.at(torch.arange(12).expand(30, -1))]
        out_BLD = out_BLD.masked_fill(~is_real_BL[:, :, None], 0.0)
        found.append((out_BLD, *torch.autograd.grad((out_BLD * weight_BLD).sum(), [x_BLD, *transformer.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_papers_size_runs_and_learns_everywhere():
    model = Towers(TowersConfig(d_model=768, layers=12, heads=12, max_len=8), DIM)
    out = everywhere(model, "users", torch.randn(9, DIM), torch.randint(0, 9, (3, 8)), torch.tensor([8, 2, 5]))
    out[:, -1].sum().backward()
    assert out.shape == (3, 8, 64)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "settings", [{"item_tower": name} for name in ITEM_TOWERS[1:]] + [{"train_input": "single"}], ids=str
)
def test_items_that_see_only_themselves(settings):
    model = make(id_residual=True, **settings)
    content_UC, rows_BT = torch.randn(5, DIM), torch.tensor([[3, 1, 4, 1]])
    together = everywhere(model, "items", content_UC, rows_BT)
    input_UC = model.inputs(content_UC, torch.arange(1, 6))
    torch.testing.assert_close(together[0], model.items_alone(input_UC)[[3, 1, 4, 1]])


@pytest.mark.parametrize("residual", [False, True])
def test_with_one_target_shared_causal_equals_shared_self(residual):
    causal = make(item_tower="shared_causal", content_residual=residual)
    alone = make(item_tower="shared_self", content_residual=residual)
    alone.load_state_dict(causal.state_dict())
    content_UC, tar_BT = torch.randn(7, DIM), torch.arange(7)[:, None]
    outputs = [everywhere(model, "items", content_UC, tar_BT) for model in (causal, alone)]
    torch.testing.assert_close(*outputs)


def test_id_residual_and_bias_are_zero_for_items_not_trained_on(content):
    model, plain = make(id_residual=True, item_bias=True), make(item_bias=True)
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and unexpected == ["id_residual.weight"]
    item = np.array([0, 14, 15, 20])  # padding, the last known item, and two new items
    with_ids, without = (m.embed_items(item, content) for m in (model, plain))
    np.testing.assert_array_equal(with_ids[[0, 2, 3]], without[[0, 2, 3]])
    assert np.abs(with_ids[1] - without[1]).max() > 0.1
    assert with_ids[1, -1] == model.item_bias.weight[14, 0] and not with_ids[[0, 2, 3], -1].any()


def test_the_bias_is_part_of_the_plain_inner_product(content):
    model = make(item_bias=True)
    user = model.embed_users(np.array([[4, 9, 2]]), np.array([3]), content)
    item = model.embed_items(np.arange(21), content)
    assert user.shape == (1, 8) and item.shape == (21, 8) and user[0, -1] == 1
    bias = model.bias(torch.arange(21)).detach().numpy()
    np.testing.assert_allclose((user @ item.T)[0], (user[:, :-1] @ item[:, :-1].T)[0] + bias, atol=1e-5)


def test_tables_by_item_need_the_number_of_items():
    with pytest.raises(ValueError, match="need the number of items"):
        Towers(TowersConfig(item_bias=True), DIM)


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
        length_B = torch.from_numpy(length)
        users = everywhere(model, "users", rows_UC, hist_BH, length_B)[torch.arange(2), length_B - 1]
        items = model.items_alone(model.inputs(content.gather(np.arange(21)), torch.arange(21)))
    np.testing.assert_allclose(user @ item.T, (10 * users @ items.T).numpy(), atol=1e-4)


def test_the_residual_tower_starts_as_mean_content(content):
    model = Towers(TowersConfig(d_model=16, heads=2, content_residual=True), DIM).eval()
    rows_UC = content.gather(np.array([1, 2, 3]))
    unit = torch.nn.functional.normalize(rows_UC, dim=-1)
    projected = model.residual(unit)
    users = everywhere(model, "users", rows_UC, torch.tensor([[0, 1, 2]]))
    mean = torch.nn.functional.normalize(projected.mean(0), dim=-1)
    torch.testing.assert_close(users[0, 2], mean)
    torch.testing.assert_close(model.residual.weight.T @ model.residual.weight, torch.eye(DIM), atol=1e-5, rtol=0)


def test_too_long_a_history_is_an_error(content):
    model = make(max_len=3)
    with pytest.raises(ValueError, match="history of 4 items.*max_len 3"):
        model.embed_users(np.ones((1, 4), int), np.array([4]), content)
    with pytest.raises(ValueError, match="max_len is 3"):
        everywhere(model, "users", torch.randn(2, DIM), torch.zeros(1, 4, dtype=torch.long))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="d_model 10 is not a multiple of heads 4"):
        TowersConfig(d_model=10)
    with pytest.raises(ValueError, match="item_tower"):
        TowersConfig(item_tower="variant_1")
    with pytest.raises(ValueError, match="full_softmax draws items that go in alone.*set train_input single"):
        check_loss(TowersConfig(), LossConfig(negatives="full_softmax"))
    with pytest.raises(ValueError, match="repeat_bias with loss.negatives sampled needs loss.pairs next_item"):
        check_loss(TowersConfig(repeat_bias=True, item_tower="mlp"), LossConfig(negatives="sampled"))
    with pytest.raises(ValueError, match="log_q corrects in-batch negatives; negatives is sampled"):
        LossConfig(negatives="sampled", log_q=True)
