"""How a batch reaches a network."""

from __future__ import annotations

import torch
from fakes import seeded
from torch import nn

from prunefuse_al.forward import forward_for
from prunefuse_al.rng import isolated_rng
from prunefuse_al.training.transforms import RandomCropFlip


def test_grey_pictures_have_strides_that_say_channels_first() -> None:
    """The stride of a dimension of size 1 means nothing, but torch goes by it when it chooses a convolution."""
    pictures = torch.arange(5 * 8 * 6.0).view(5, 8, 6, 1).permute(0, 3, 1, 2)  # as ToTensor lays out a grey picture
    assert pictures.is_contiguous()
    assert pictures.contiguous().stride() == (48, 1, 6, 1)
    network = seeded(lambda: nn.Conv2d(1, 4, 3))
    plain = forward_for(network, torch.device("cpu")).inputs(pictures)
    assert plain.stride() == (48, 48, 6, 1)
    assert torch.equal(plain, pictures)
    assert plain.data_ptr() == pictures.data_ptr()  # nothing was copied
    with isolated_rng(0):
        shifted = forward_for(network, torch.device("cpu"), transform=RandomCropFlip(1)).inputs(plain)
    assert shifted.stride() == (48, 48, 6, 1)
    asked = forward_for(network, torch.device("cpu"), channels_last=True).inputs(pictures)
    assert (asked.stride(), asked.data_ptr()) == ((48, 48, 6, 1), pictures.data_ptr())
    colour = torch.zeros(2, 3, 4, 5)
    colours = seeded(lambda: nn.Conv2d(3, 4, 3))
    asked = forward_for(colours, torch.device("cpu"), channels_last=True).inputs(colour)
    assert asked.is_contiguous(memory_format=torch.channels_last)
    turned = colour.transpose(2, 3)
    assert forward_for(colours, torch.device("cpu")).inputs(turned).stride() == turned.stride()
