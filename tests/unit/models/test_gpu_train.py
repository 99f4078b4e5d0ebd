"""The GPU benchmark's contenders compute the same; here at a tiny size on the CPU."""

import json

import pytest
import torch

from benchmarks.gpu_train import CONTENDERS, main

SIZES = {"--d-model": "16", "--layers": "2", "--heads": "2", "--content-dim": "8", "--steps": "1"}
TINY = ["--device", "cpu", "--batches", "4", "6", *(word for pair in SIZES.items() for word in pair)]


def test_all_contenders_come_to_the_same_loss(capsys):
    assert main(TINY) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(case["contender"], case["batch"]) for case in result["cases"]] == [
        (n, b) for b in (4, 6) for n in CONTENDERS
    ]
    for users in (4, 6):
        losses = [case["loss"] for case in result["cases"] if case["batch"] == users]
        assert losses == pytest.approx([losses[0]] * len(CONTENDERS), rel=1e-5)
    assert all(case["samples_per_s"] > 0 and case["share_of_matmul"] > 0 for case in result["cases"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
