import numpy as np
import pytest
import torch

from models.contract.failures import BadInput
from models.contract.settings import CVRConfig
from models.contract.trained_model import read_about, write_about
from models.saved import load_cvr, save_cvr
from models.towers.cvr import CVRModel


@pytest.mark.parametrize("fusion", ["concat", "concat+product"])
def test_scores_equal_the_forward_pass_and_ignore_the_batching(fusion):
    torch.manual_seed(0)
    model = CVRModel(CVRConfig(fusion=fusion, mid_dim=6), 5, 5)
    user, item = np.random.default_rng(0).normal(size=(2, 11, 5)).astype(np.float32)
    mid, probability = model.score(user, item, batch_size=4)
    assert mid.shape == (11, 6) and mid.dtype == probability.dtype == np.float32
    with torch.inference_mode():
        mid_all, logit = model.eval()(torch.tensor(user), torch.tensor(item))
        np.testing.assert_allclose(mid, mid_all.numpy(), atol=1e-6)
        np.testing.assert_allclose(probability, logit[:, 0].sigmoid().numpy(), atol=1e-6)
        # mid_emb is all that the output sees.
        np.testing.assert_allclose(model.output(torch.tensor(mid)).numpy(), logit.numpy(), atol=1e-5)


def test_other_labels_have_outputs_of_their_own_and_come_back_with_their_names(tmp_path):
    torch.manual_seed(0)
    model = CVRModel(CVRConfig(mid_dim=6), 5, 5, other_labels=("cart", "click"))
    pairs = np.random.default_rng(0).normal(size=(2, 11, 5)).astype(np.float32)
    save_cvr(tmp_path, model)
    found = load_cvr(tmp_path)
    assert found.other_labels == ("cart", "click")
    mid, probability = found.score_labels(*pairs, batch_size=4)
    assert probability.shape == (11, 3) and len(np.unique(probability[0])) == 3
    np.testing.assert_array_equal(probability, model.score_labels(*pairs, batch_size=4)[1])
    np.testing.assert_array_equal(found.score(*pairs, batch_size=4)[1], probability[:, 0])
    expected = torch.sigmoid(torch.tensor(mid) @ model.output.weight.T + model.output.bias)
    np.testing.assert_allclose(probability, expected.detach().numpy(), atol=1e-6)


def test_names_that_do_not_fit_the_outputs_are_refused(tmp_path):
    save_cvr(tmp_path, CVRModel(CVRConfig(), 5, 5, other_labels=("cart",)))
    about = read_about(tmp_path)
    for names in (["cart", "click"], ["cart", "cart"], "cart"):
        write_about(tmp_path, about | {"other_labels": names})
        with pytest.raises(BadInput, match="weights do not fit|which are no names"):
            load_cvr(tmp_path)


def test_batch_norm_centres_the_hidden_layers_and_scores_rows_alone():
    torch.manual_seed(0)
    model = CVRModel(CVRConfig(hidden=(7, 6), batch_norm=True, dropout=0.0), 5, 5).train()
    user, item = torch.randn(2, 64, 5) * 3 + 10
    seen = []
    hooks = [
        module.register_forward_hook(lambda *a: seen.append(a[2]))
        for module in model.body
        if type(module) is torch.nn.BatchNorm1d
    ]
    for _ in range(100):
        model(user, item)
    assert [tuple(x.shape) for x in seen[:2]] == [(64, 7), (64, 6)]
    torch.testing.assert_close(seen[-1].mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    for hook in hooks:
        hook.remove()
    mid, probability = model.score(user.numpy(), item.numpy())
    alone = [model.score(user[[row]].numpy(), item[[row]].numpy()) for row in range(64)]
    np.testing.assert_allclose(mid, np.concatenate([one for one, _ in alone]), atol=1e-5)
    np.testing.assert_allclose(probability, np.concatenate([one for _, one in alone]), atol=1e-5)
    assert not [module for module in CVRModel(CVRConfig(), 5, 5).body if type(module) is torch.nn.BatchNorm1d]


def test_no_pairs_give_no_scores():
    mid, probability = CVRModel(CVRConfig(), 4, 4).score(np.zeros((0, 4)), np.zeros((0, 4)))
    assert mid.shape == (0, 32) and probability.shape == (0,)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\), \(3, 4\)"):
        CVRModel(CVRConfig(), 4, 4).score(np.zeros((2, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="equal widths"):
        CVRModel(CVRConfig(fusion="concat+product"), 4, 5)
