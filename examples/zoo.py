"""The networks people bring: one small configuration of every family, and the full-size one beside it.

A small configuration keeps what makes the family hard (its topology, its odd operations) and drops depth and width.
timm and transformers are optional: their families are listed where the library can be imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.networks import ResNet, ViT, cifar_resnet, resnet18, vgg

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Family:
    """One family of networks.

    Attributes:
        name: as its library calls it.
        group: library, a heading of the table.
        small: builds the small configuration.
        full: builds the full-size one; None where the small one is the full one.
        size: side of the pictures the small one takes, or what `inputs` makes.
        full_size: side of the pictures for the full-size one.
        inputs: makes a batch of example inputs from a size.
    """

    name: str
    group: str
    small: Make
    full: Make | None = None
    size: int = 32
    full_size: int = 64
    inputs: Callable[[int], Any] = lambda size: pictures(size)

    def build(self, full: bool = False) -> nn.Module:
        """Return the network with weights of a fixed seed, in eval mode."""
        make = self.full if full and self.full is not None else self.small
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().eval()

    def example(self, full: bool = False) -> Any:
        """Return a batch of two example inputs."""
        return self.inputs(self.full_size if full else self.size)


def pictures(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def gray(size: int) -> Tensor:
    return torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(1))


def words(size: int) -> Tensor:
    return torch.randint(1, 50, (2, size), generator=torch.Generator().manual_seed(1))


def tokens(size: int) -> dict[str, Tensor]:
    mask = torch.ones(2, size, dtype=torch.int64)
    mask[1, size - 2 :] = 0
    return {"input_ids": words(size), "attention_mask": mask}


def padded(size: int) -> Tensor:
    """Token numbers of which the last three of the second row are padding, 0."""
    ids = words(size)
    ids[1, size - 3 :] = 0
    return ids


class PaddedEncoder(nn.Module):
    """`nn.TransformerEncoder` that is told which tokens are padding, and the mean over the others.

    Args:
        causal: a mask between tokens as well, a buffer of type bool or float; None: none.
        options: of `nn.TransformerEncoderLayer`.
    """

    def __init__(self, width: int = 32, heads: int = 4, causal: torch.dtype | None = None, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, batch_first=True, **options)
        self.embedding, self.head = nn.Embedding(50, width), nn.Linear(width, 4)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not layer.norm_first)
        future = torch.ones(64, 64, dtype=torch.bool).triu(1)
        given = future if causal == torch.bool else torch.zeros(64, 64).masked_fill(future, -torch.inf)
        self.register_buffer("future", None if causal is None else given)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token numbers [n t] to logits [n 4]."""
        padding, t = ids.eq(0), ids.shape[1]
        future = None if self.future is None else self.future[:t, :t]
        given = padding if future is None or future.dtype == torch.bool else padding.float() * -1e9
        out = self.encoder(self.embedding(ids), mask=future, src_key_padding_mask=given)
        return self.head(mean_of(out, ~padding))


class PaddedAttention(nn.Module):
    """A bare `nn.MultiheadAttention` with a mask of padding, with its weights asked for or not."""

    def __init__(self, width: int = 32, heads: int = 4, *, weights: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, width), nn.Linear(width, 4)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        self.weights, self.batch_first = weights, batch_first

    def forward(self, ids: Tensor) -> Tensor:
        """Map token numbers [n t] to logits [n 4]."""
        x, padding = self.embedding(ids), ids.eq(0)
        x = x if self.batch_first else x.transpose(0, 1)
        out, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.weights)
        return self.head(mean_of(out if self.batch_first else out.transpose(0, 1), ~padding))


class MaskedAttention(nn.Module):
    """Attention written by hand, heads and rows as one dimension.

    Args:
        spread: (padding [n t], heads) -> the mask [n*heads, 1 or t, t], bool.
    """

    def __init__(self, spread: Callable[[Tensor, int], Tensor], width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embedding, self.head, self.out = nn.Embedding(50, width), nn.Linear(width, 4), nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.spread = heads, spread

    def forward(self, ids: Tensor) -> Tensor:
        """Map token numbers [n t] to logits [n 4]."""
        x, (n, t) = self.embedding(ids), ids.shape
        q, k, v = (
            layer(x).view(n, t, self.heads, -1).transpose(1, 2).reshape(n * self.heads, t, -1)
            for layer in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(self.spread(ids.eq(0), self.heads), -1e9)
        mixed = (scores.softmax(-1) @ v).view(n, self.heads, t, -1).transpose(1, 2).reshape(n, t, -1)
        return self.head(mean_of(self.out(mixed).relu(), ids.ne(0)))


def mean_of(x: Tensor, counted: Tensor) -> Tensor:
    """Return the mean [n d] of those of the tokens [n t d] that count, bool [n t]."""
    return (x * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)


class TextClassifier(nn.Module):
    """Embedding, recurrent layer, linear head on the last state."""

    def __init__(self, kind: str, width: int = 32, layers: int = 2, bidirectional: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.recurrent = recurrent(24, width, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(width * (2 if bidirectional else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map token numbers [n t] to logits [n 4]."""
        return self.head(self.recurrent(self.embedding(x))[0].mean(1))


class UNet(nn.Module):
    """Two scales with skip connections and transposed convolutions (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = (
            _double(3, width),
            _double(width, 2 * width),
            _double(2 * width, 4 * width),
        )
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge2, self.merge1 = _double(4 * width, 2 * width), _double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [n 3 h w] to a class for each pixel [n classes h w]."""
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        out = self.bottom(nn.functional.max_pool2d(second, 2))
        out = self.merge2(torch.cat([self.up2(out), second], 1))
        return self.head(self.merge1(torch.cat([self.up1(out), first], 1)))


def _double(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
    )  # fmt: skip


class ShortcutsOfZeros(nn.Module):
    """A ResNet whose shortcuts have no weights: zeros stand for the channels that they lack (option A)."""

    def __init__(self, width: int = 16, stages: int = 3) -> None:
        super().__init__()
        self.enter, self.head = _double(3, width), nn.Linear(width * 2 ** (stages - 1), 10)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), _double(width * 2**n, width * 2 ** (n + 1))) for n in range(stages - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [n 3 h w] to logits [n 10]."""
        x = self.enter(x)
        for stage in self.stages:
            y = stage(x)
            missing = y.shape[1] - x.shape[1]
            x = y + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return self.head(x.mean((2, 3)))


class WithEmbedding(nn.Module):
    """A small network that answers with logits and the embedding they are made of, as much active learning does."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(_double(3, width), _double(width, width)), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures [n 3 h w] to logits [n 10] and embeddings [n width]."""
        embedding = self.body(x).mean((2, 3))
        return self.head(embedding), embedding


class Experts(nn.Module):
    """Each token goes through one of several networks, which a gate chooses, and comes back weighted."""

    def __init__(self, width: int = 32, experts: int = 3) -> None:
        super().__init__()
        self.embedding, self.gate, self.head = nn.Embedding(50, width), nn.Linear(width, experts), nn.Linear(width, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(experts)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Map token numbers [n t] to logits [n 4]."""
        x = self.embedding(ids)
        tokens = x.flatten(0, 1)
        share, chosen = self.gate(tokens).softmax(-1).max(-1)
        mixed = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == number)
            mixed.index_add_(0, rows, expert(tokens[rows]) * share[rows, None])
        return self.head((x + mixed.view_as(x)).mean(1))


class Frequencies(nn.Module):
    """Pictures filtered by their frequencies, one filter a channel (GFNet, Rao et al. 2021)."""

    def __init__(self, width: int = 32, size: int = 8) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(3, width, 4, stride=4), nn.Linear(width, 10)
        self.filter = nn.Parameter(torch.randn(width, size, size // 2 + 1, 2) / 10)
        self.mlp = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [n 3 32 32] to logits [n 10]."""
        x = self.enter(x)
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        x = x + self.mlp(torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho"))
        return self.head(x.mean((2, 3)))


def wide_resnet(depth: int, factor: int) -> ResNet:
    """Return a pre-activation WRN-depth-factor for CIFAR (Zagoruyko & Komodakis 2016)."""
    n = (depth - 4) // 6
    return ResNet((n, n, n), (16 * factor, 32 * factor, 64 * factor), preactivation=True)


SPREADS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expand": lambda padding, heads: padding[:, None, None].expand(-1, heads, -1, -1).flatten(0, 1),
    "repeat": lambda padding, heads: padding[:, None].repeat(1, heads, 1).view(-1, 1, padding.shape[1]),
}


def plain() -> Iterator[Family]:
    yield Family("mlp", "plain", lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10)
    ))  # fmt: skip
    yield Family("vgg", "plain", lambda: vgg((16, "M", 32, 32, "M", 64, "M")))
    yield Family("resnet20 (CIFAR)", "plain", lambda: cifar_resnet(20, preactivation=False))
    yield Family("resnet56 (CIFAR)", "plain", lambda: cifar_resnet(14), lambda: cifar_resnet(56), 32, 32)
    yield Family("resnet110 (CIFAR)", "plain", lambda: cifar_resnet(8), lambda: cifar_resnet(110), 32, 32)
    yield Family("resnet164 (CIFAR)", "plain", lambda: cifar_resnet(20), lambda: cifar_resnet(164), 32, 32)
    yield Family("resnet18 (CIFAR)", "plain", lambda: resnet18(width=16), resnet18, 32, 32)
    yield Family("wrn-16-8", "plain", lambda: wide_resnet(10, 2), lambda: wide_resnet(16, 8), 32, 32)
    yield Family("wrn-28-10", "plain", lambda: wide_resnet(10, 1), lambda: wide_resnet(28, 10), 32, 32)
    yield Family("vit (CIFAR)", "plain", lambda: ViT(depth=2), ViT, 32, 32)
    yield Family("u-net", "plain", lambda: UNet(8), lambda: UNet(32), 32, 64)
    yield Family("lstm text classifier", "plain", lambda: TextClassifier("lstm"), None, 7, 7, words)
    yield Family("gru text classifier", "plain", lambda: TextClassifier("gru"), None, 7, 7, words)
    yield Family("transformer encoder, padded", "plain", PaddedEncoder, None, 7, 7, padded)
    yield Family("multi-head attention, padded", "plain", PaddedAttention, None, 7, 7, padded)
    yield Family("resnet, shortcuts padded with zeros", "plain", ShortcutsOfZeros)
    yield Family("logits and embedding", "plain", WithEmbedding)
    yield Family("mixture of experts", "plain", Experts, None, 7, 7, words)
    yield Family("filters of frequencies", "plain", Frequencies)
    for name, spread in SPREADS.items():
        make = lambda spread=spread: MaskedAttention(spread)  # noqa: E731
        yield Family(f"attention by hand, mask by {name}", "plain", make, None, 7, 7, padded)


def torchvision_families() -> Iterator[Family]:
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError:
        return
    swin, maxvit = models.swin_transformer, models.maxvit
    group = "torchvision"

    def one(name: str, small: Make | None = None, size: int = 64, full_size: int = 64, **options: Any) -> Family:
        full = lambda: getattr(models, name)(num_classes=10, **options)  # noqa: E731
        return Family(name, group, small or full, full if small else None, size, full_size)

    def resnet(block: Any, layers: list[int], **options: Any) -> Make:
        return lambda: models.ResNet(block, layers, num_classes=10, **options)

    basic, bottleneck = models.resnet.BasicBlock, models.resnet.Bottleneck
    yield one("resnet18", resnet(basic, [1, 1, 1, 1]))
    yield one("resnet50", resnet(bottleneck, [1, 1, 1, 1]), full_size=224)
    yield one("wide_resnet50_2", resnet(bottleneck, [1, 1, 1, 1], width_per_group=128))
    yield one("resnext50_32x4d", resnet(bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4))
    yield one("densenet121", lambda: models.DenseNet(8, (2, 2, 2), 16, num_classes=10))
    yield one("mobilenet_v2", lambda: models.MobileNetV2(10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]))
    yield one("mobilenet_v3_small")
    yield one("efficientnet_b0")
    block = models.convnext.CNBlockConfig
    yield one("convnext_tiny", lambda: models.ConvNeXt([block(32, 64, 2), block(64, None, 2)], num_classes=10))
    yield one("vgg16_bn", lambda: small_vgg(models), 32, 64)
    yield one("googlenet", None, 64, 64, init_weights=False)
    yield one("inception_v3", None, 160, 160, init_weights=False)
    yield one("regnet_y_400mf")
    yield one("shufflenet_v2_x1_0", lambda: models.ShuffleNetV2([2, 2, 2], [24, 32, 64, 96, 128], num_classes=10))
    yield one("squeezenet1_1")
    yield one("mnasnet1_0", lambda: models.MNASNet(0.35, num_classes=10))
    yield one("vit_b_16", lambda: models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10), 32, 224)
    small = dict(patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[3, 6], window_size=[4, 4], num_classes=10)
    yield one("swin_t", lambda: models.SwinTransformer(**small))
    v2 = dict(small, block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)
    yield one("swin_v2_t", lambda: models.SwinTransformer(**v2))
    yield one(
        "maxvit_t",
        lambda: maxvit.MaxVit((64, 64), 16, 4, [32, 64], [1, 1], 16, 0.0, num_classes=10),
        64, 224,
    )  # fmt: skip


def small_vgg(models: Any) -> nn.Module:
    network = models.VGG(models.vgg.make_layers([16, "M", 32, "M"], True), 10)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier = nn.Sequential(nn.Linear(128, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    return network


def timm_families() -> Iterator[Family]:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        return

    def one(name: str, full: str, size: int = 64, full_size: int = 224, **options: Any) -> Family:
        make = lambda: timm.create_model(full, num_classes=10, **options)  # noqa: E731
        return Family(name, "timm", make, lambda: timm.create_model(full, num_classes=10), size, full_size)

    tiny = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4)
    yield one("vit", "vit_base_patch16_224", 32, **tiny)
    yield one("deit", "deit_base_distilled_patch16_224", 32, **tiny)
    yield one("beit", "beit_base_patch16_224", 32, **tiny)
    window = dict(img_size=64, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=4)
    yield one("swin", "swin_tiny_patch4_window7_224", 64, **window)
    yield one("convnext", "convnext_tiny", 64, depths=(1, 1, 2, 1), dims=(16, 24, 32, 48))
    yield one("convnextv2", "convnextv2_tiny", 64, depths=(1, 1, 2, 1), dims=(16, 24, 32, 48))
    mixer = lambda: timm.models.mlp_mixer.MlpMixer(10, 32, 3, 8, 2, 48)  # noqa: E731
    yield replace(one("mixer", "mixer_b16_224", 32), small=mixer)
    yield one("mobilevit", "mobilevit_xxs", 64, 256)
    yield replace(one("poolformer", "poolformer_s12", 64), small=lambda: small_poolformer(timm))
    yield one("cait", "cait_xxs24_224", 32, img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4)
    yield replace(one("nfnet", "nfnet_l0", 64, 64), small=lambda: timm.create_model("test_nfnet", num_classes=10))
    yield one("nf_resnet", "nf_resnet50", 64, 64, width_factor=0.25, depths=(1, 1, 2, 1))
    yield one("efficientnetv2", "tf_efficientnetv2_b0", 64, 64)
    small = lambda: small_coatnet(timm)  # noqa: E731
    yield replace(one("coatnet", "coatnet_0_rw_224", 64), small=small)


def small_poolformer(timm: Any) -> nn.Module:
    options = dict(mlp_act=nn.GELU, mlp_bias=True, downsample_norm=None, norm_layers=timm.layers.GroupNorm1)
    scales = dict(layer_scale_init_values=1e-5, res_scale_init_values=None, use_mlp_head=False)
    return timm.models.metaformer.MetaFormer(
        num_classes=10, depths=(1, 1, 1, 1), dims=(16, 32, 40, 64), **options, **scales
    )


def small_coatnet(timm: Any) -> nn.Module:
    maxxvit = timm.models.maxxvit
    config = timm.models.maxxvit.model_cfgs["coatnet_0_rw"]
    return maxxvit.MaxxVit(
        replace(config, embed_dim=(32, 64, 64, 64), depths=(1, 1, 1, 1)), img_size=64, num_classes=10
    )


def transformers_families() -> Iterator[Family]:
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        return
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50)
    tall = dict(n_positions=64, vocab_size=50, pad_token_id=0)
    table: dict[str, tuple[str, dict[str, Any]]] = {
        "BERT": ("Bert", small),
        "DistilBERT": ("DistilBert", dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=50)),
        "RoBERTa": ("Roberta", dict(small, max_position_embeddings=66)),
        "GPT-2": ("GPT2", dict(tall, n_embd=32, n_layer=2, n_head=4)),
        "Llama": ("Llama", dict(small, num_key_value_heads=2, pad_token_id=0)),
        "T5": (
            "T5",
            dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=50, decoder_start_token_id=0),
        ),
    }
    # SmolLM-135M's numbers; Llama's default has 7 billion parameters, of which a test holds several copies.
    smol = dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    large: dict[str, dict[str, Any]] = {
        "Llama": dict(smol, intermediate_size=1536, vocab_size=49152),
        "T5": dict(decoder_start_token_id=0),
    }
    for name, (prefix, options) in table.items():
        config, model = getattr(library, f"{prefix}Config"), getattr(library, f"{prefix}ForSequenceClassification")
        inputs, full = with_end if name == "T5" else tokens, large.get(name, {})
        yield Family(
            name,
            "transformers",
            lambda model=model, config=config, options=options: model(config(num_labels=4, **options)),
            lambda model=model, config=config, full=full: model(config(num_labels=4, pad_token_id=0, **full)),
            9,
            9,
            inputs,
        )
    yield from tiny_transformers(library, small)
    vit = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    yield Family(
        "ViT",
        "transformers",
        lambda: library.ViTForImageClassification(library.ViTConfig(num_labels=4, intermediate_size=64, **vit)),
        lambda: library.ViTForImageClassification(library.ViTConfig(num_labels=4)),
        32,
        224,
        lambda size: {"pixel_values": pictures(size)},
    )


def tiny_transformers(library: Any, small: dict[str, Any]) -> Iterator[Family]:
    """Yield those that are tested in the small configuration alone."""
    near = dict(small, relative_attention=True, pos_att_type="c2p|p2c", max_relative_positions=8)
    waves = dict(conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 2), num_feat_extract_layers=3)
    experts = dict(num_key_value_heads=2, num_local_experts=4, experts_implementation="eager")
    heard = dict(waves, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, classifier_proj_size=24)
    tiny: dict[str, tuple[str, int, Callable[[int], Any], dict[str, Any]]] = {
        "DeBERTa": ("Deberta", 9, tokens, near),
        "DeBERTa-v2": ("DebertaV2", 9, tokens, near),
        "Longformer": ("Longformer", 16, tokens, dict(small, attention_window=4, max_position_embeddings=70)),
        "Mixtral": ("Mixtral", 9, tokens, dict(small, **experts)),
        "wav2vec 2.0": ("Wav2Vec2", 800, sounds, dict(small, **heard)),
    }
    for name, (prefix, size, inputs, options) in tiny.items():
        config, model = getattr(library, f"{prefix}Config"), getattr(library, f"{prefix}ForSequenceClassification")
        make = lambda model=model, config=config, options=options: model(  # noqa: E731
            config(num_labels=4, pad_token_id=0, **options)
        )
        yield Family(name, "transformers", make, None, size, size, inputs)


def sounds(size: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, size, generator=torch.Generator().manual_seed(1))}


def with_end(size: int) -> dict[str, Tensor]:
    """T5 classifies at its end-of-sequence token, number 1."""
    ids = words(size).clamp(min=2)
    ids[:, -1] = 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


FAMILIES = {
    (f.group, f.name): f
    for source in (plain, torchvision_families, timm_families, transformers_families)
    for f in source()
}
