"""Pooling with answers known in closed form."""

from __future__ import annotations

import math

import torch

from pipeline.extraction.encoders.base import AttentivePooling, frame_mask, mean_std, plain_pooling, uniform

FRAMES = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [2.0], [2.0]]])  # (2, 3, 1)


def test_uniform_weights_leave_the_padding_out():
    weights = uniform(frame_mask(torch.tensor([2, 3]), 3))
    mean, deviation = mean_std(FRAMES, weights).chunk(2, 1)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
    torch.testing.assert_close(mean, torch.tensor([[2.0], [2.0]]))
    torch.testing.assert_close(deviation, torch.tensor([[1.0], [math.sqrt(1e-5)]]))  # the clamp of F19


def test_mean_std_is_the_mean_beside_the_deviation():
    mask = frame_mask(torch.tensor([2, 3]), 3)
    torch.testing.assert_close(plain_pooling("mean_std", "model")(FRAMES, mask)[0], torch.tensor([2.0, 1.0]))


def test_a_deviation_survives_a_large_mean():
    frames = torch.tensor([[[4096.0], [4097.0]]])  # squares differ beyond float32's digits (F36)
    _, deviation = mean_std(frames, torch.tensor([[0.5, 0.5]])).chunk(2, 1)
    torch.testing.assert_close(deviation, torch.tensor([[0.5]]))


def test_attention_weighs_a_clips_own_frames_by_their_scores():
    pooling = AttentivePooling(1)
    with torch.no_grad():
        pooling.sap_linear.weight.fill_(1.0)
        pooling.sap_linear.bias.zero_()
        pooling.attention.fill_(2.0)
        weights = pooling(torch.tensor([[[0.0], [math.atanh(0.5)], [9.0]]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[1 / (1 + math.e), math.e / (1 + math.e), 0.0]]))
