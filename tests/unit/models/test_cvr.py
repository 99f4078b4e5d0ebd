import numpy as np
import pytest
import torch

from models.contract.settings import CVRConfig
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
        np.testing.assert_allclose(probability, logit.sigmoid().numpy(), atol=1e-6)
        # The output depends on mid_emb only.
        np.testing.assert_allclose(model.output(torch.tensor(mid))[:, 0].numpy(), logit.numpy(), atol=1e-5)


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
