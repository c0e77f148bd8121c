"""The networks of a sweep: one of every family that the installed timm, torchvision and transformers have, small.

A name is "library/network". Of timm the smallest registered member of each family (a module file, and how names in it
begin), of torchvision likewise, of transformers every architecture that classifies, in a configuration of a few layers.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

CLASSES = 10
SIDES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384)  # of pictures: the first that the network takes
TOKENS, FRAMES, SAMPLES, VOCABULARY = 16, 64, 4000, 128

Inputs = Callable[[int, bool], Any]


@dataclass(frozen=True)
class Member:
    """A network in eval mode, and what it is called with: of so many rows, at the example's size or at a larger one."""

    network: nn.Module
    inputs: Inputs


LIBRARIES = ("timm", "torchvision", "transformers")


def names(patterns: Sequence[str] = ("*",)) -> list[str]:
    """Return the names that fit a pattern, of the libraries that are installed; no other library is imported."""
    families = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}
    every = [f"{library}/{name}" for library in asked(patterns) for name in families[library]()]
    return [name for name in every if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def asked(patterns: Sequence[str]) -> list[str]:
    """Return the libraries that are installed and that patterns speak of."""
    starts = [pattern.partition("/")[0] for pattern in patterns]
    return [
        library
        for library in LIBRARIES
        if any(fnmatch.fnmatchcase(library, start) for start in starts) and importlib.util.find_spec(library)
    ]


def made(name: str) -> Member:
    """Return a network, initialised with seed 0. Whatever its library raises comes through."""
    library, _, own = name.partition("/")
    torch.manual_seed(0)
    return {"timm": _timm_member, "torchvision": _torchvision_member, "transformers": _transformers_member}[library](
        own
    )


def run(network: nn.Module, inputs: Any) -> Any:
    """Return what a network answers."""
    return network(**inputs) if isinstance(inputs, dict) else network(inputs)


# ---- of each family the smallest ----

SMALL_WORDS = ("atto", "femto", "pico", "nano", "xxtiny", "xxs", "xtiny", "xs", "tiny", "mini", "t", "small", "s")
LARGE_WORDS = (
    "medium",
    "m",
    "plus",
    "base",
    "b",
    "large",
    "l",
    "xl",
    "xlarge",
    "x",
    "huge",
    "h",
    "giant",
    "g",
    "so",
    "billion",
)
GRADES = {word: number - len(SMALL_WORDS) for number, word in enumerate((*SMALL_WORDS, "", *LARGE_WORDS))}


def smallest(members: Iterable[str], family: Callable[[str], Any]) -> list[str]:
    """Return the smallest member of each family, as far as names tell."""
    first: dict[Any, str] = {}
    for name in sorted(members, key=grade):
        first.setdefault(family(name), name)
    return sorted(first.values())


def grade(name: str) -> tuple[bool, int, list[int], int, str]:
    """Return what sorts small networks before large ones: the words for sizes in a name, then its numbers."""
    words = re.split(r"[_\d]+", re.sub(r"\d+b(?=_|$)", "billion", name.lower()))  # 1b is no base
    ranks = [GRADES[word] for word in words if word and word in GRADES]
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return not name.startswith("test_"), ranks[0] if ranks else 0, numbers, len(name), name


def start(name: str) -> str:
    """Return how the names of a family begin: the letters before the first number or underscore."""
    found = re.match(r"[a-z]+", name.removeprefix("test_"))
    return found[0] if found else name


# ---- timm ----


def _timm() -> list[str]:
    import timm

    modules = {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}
    return smallest(modules, lambda name: (modules[name], start(name)))


def _timm_member(name: str) -> Member:
    import timm

    def network(side: int) -> nn.Module:
        try:
            return timm.create_model(name, num_classes=CLASSES, img_size=side)
        except TypeError:  # it takes pictures of any size
            return timm.create_model(name, num_classes=CLASSES)

    return _first_that_runs(network, lambda side: pictures(3, side))


def _first_that_runs(network: Callable[[int], nn.Module], inputs: Callable[[int], Inputs]) -> Member:
    """Return the member at the first size at which it can be made and takes two rows."""
    for side in SIDES:
        try:
            member = Member(network(side).eval(), inputs(side))
            with torch.no_grad():
                run(member.network, member.inputs(2, False))
            return member
        except Exception:  # each library has its own for a size that does not fit
            if side == SIDES[-1]:
                raise
    raise AssertionError("the last size returns or raises")


def pictures(channels: int, side: int) -> Inputs:
    """Return inputs [rows channels side side]."""
    return lambda rows, larger: torch.randn(rows, channels, *[side + 32 * larger] * 2)


# ---- torchvision ----


def _torchvision() -> list[str]:
    from torchvision import models

    every = [name for name in models.list_models() if not name.startswith(("quantized_", "raft_"))]
    kinds = {name: models.get_model_builder(name).__module__.rpartition("torchvision.models")[2] for name in every}
    return smallest(every, lambda name: (kinds[name], start(name), name.endswith("_bn")))


class _First(nn.Module):
    """The first of the maps that the trunk of a detector makes: the detector itself takes lists of pictures."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        """Return one map."""
        return next(iter(self.trunk(x).values()))


def _torchvision_member(name: str) -> Member:
    from torchvision import models

    kind = models.get_model_builder(name).__module__
    if ".detection" in kind:
        detector = models.get_model(name, weights=None, weights_backbone=None)
        return _first_that_runs(lambda side: _First(detector.backbone), lambda side: pictures(3, side))
    options: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    for part, more in TORCHVISION_OPTIONS.items():
        options |= more if part in kind else {}
    inputs = clips if ".video" in kind else lambda side: pictures(3, side)

    def network(side: int) -> nn.Module:
        with _made_for(side):
            return models.get_model(name, **options)

    return _first_that_runs(network, inputs)


@contextlib.contextmanager
def _made_for(side: int) -> Iterator[None]:
    """While active, torchvision's transformers for clips are made for a size of pictures that their makers fix."""
    from torchvision.models.video import mvit

    make = mvit._mvit
    with mock.patch.object(mvit, "_mvit", lambda **given: make(**given | {"spatial_size": (side, side)})):
        yield


TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {  # part of a module's name -> what its networks are made with
    ".vision_transformer": {"image_size": 64},
    ".maxvit": {"input_size": (224, 224)},
    ".segmentation": {"weights_backbone": None},
    ".googlenet": {"aux_logits": False, "init_weights": False},
    ".inception": {"aux_logits": False, "init_weights": False},
}


def clips(side: int) -> Inputs:
    """Return inputs [rows 3 16 side side]."""
    return lambda rows, larger: torch.randn(rows, 3, 16, *[side + 32 * larger] * 2)


# ---- transformers ----

KINDS = ("SEQUENCE", "IMAGE", "AUDIO")
TABLES = [f"MODEL_FOR_{kind}_CLASSIFICATION_MAPPING_NAMES" for kind in KINDS]

SIZES = {  # what configurations call their sizes, and what each becomes; heads and their width before what they make up
    "hidden_size d_model dim n_embd emb_dim embed_dim embedding_size input_embedding_size word_embed_proj_dim": 64,
    "attention_hidden_size mamba_expand_dim d_latents lru_width output_hidden_size d_embed pooler_hidden_size": 64,
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers": 2,
    "num_decoder_layers num_self_attends_per_block depth": 2,
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads": 4,
    "num_self_attention_heads num_cross_attention_heads index_n_heads": 4,
    "num_key_value_heads num_kv_heads linear_num_key_heads linear_num_value_heads": 2,
    "head_dim d_kv d_head attention_head_size v_head_dim qk_nope_head_dim qk_rope_head_dim kv_channels": 16,
    "linear_key_head_dim linear_value_head_dim index_head_dim attention_head_dim": 16,
    "rotary_dim": 8,
    "qk_head_dim q_lora_rank kv_lora_rank adapter_rank": 32,
    "intermediate_size d_ff dff encoder_ffn_dim decoder_ffn_dim ffn_dim ffn_hidden_size d_inner n_inner": 128,
    "moe_intermediate_size shared_expert_intermediate_size feed_forward_size": 128,
    "vocab_size max_position_embeddings n_positions n_ctx max_seq_len max_2d_position_embeddings": VOCABULARY,
    "entity_vocab_size num_hash_buckets max_source_positions max_target_positions": VOCABULARY,
    "pronunciation_vocab_size shape_vocab_size": VOCABULARY,
    "num_experts num_local_experts n_routed_experts": 4,
    "num_experts_per_tok moe_topk": 2,
    "n_group topk_group n_shared_experts first_k_dense_replace": 1,
    "image_size": 64,
    "num_latents num_mel_bins": 16,
    "max_length": FRAMES,
}
SMALL = {name: value for line, value in SIZES.items() for name in line.split()}
TINY: dict[str, dict[str, Any]] = {  # what an architecture needs besides
    "cvt": {"depth": [1, 2, 3]},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "donut-swin": {"image_size": 224, "embed_dim": 32, "num_heads": [2, 4, 8, 16]},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.1, "hidden_dim": 640},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 12, "shape_size": 8},
    "lilt": {"hidden_size": 96},
    "nemotron": {"num_key_value_heads": 2},
    "qwen3_5": {"text_config": {"layer_types": ["linear_attention", "full_attention"]}},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "swin": {"image_size": 224, "embed_dim": 32, "num_heads": [2, 4, 8, 16]},
    "swinv2": {"image_size": 224, "embed_dim": 32, "num_heads": [2, 4, 8, 16]},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
    "umt5": {"decoder_start_token_id": 0},
}


def _transformers() -> list[str]:
    return sorted(_architectures())


def _architectures() -> dict[str, str]:
    """Return class -> kind of model; of several classes of a model the first."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for table in TABLES:
        for kind, classes in getattr(modeling_auto, table).items():
            found.setdefault(classes if isinstance(classes, str) else classes[0], kind)
    return found


def _transformers_member(name: str) -> Member:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = _architectures()[name]
    config = CONFIG_MAPPING[kind](**_merged(tiny(CONFIG_MAPPING[kind]().to_dict()), TINY.get(kind, {})))
    config.num_labels = CLASSES
    network = getattr(transformers, name)(config).eval()
    return Member(network, _calls(network, config))


def tiny(values: dict[str, Any]) -> dict[str, Any]:
    """Return what to change in a configuration, so that its network has a few narrow layers."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name.endswith(("_config", "encoder", "decoder")) and "model_type" in value:
            changed[name] = {"model_type": value["model_type"]} | tiny(value)
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int | list | None):
            changed[name] = 0 if name.startswith("pad") else 2
        elif name in SMALL and (type(value) is int or name == "head_dim"):
            changed[name] = SMALL[name]
        elif isinstance(value, list) and value and all(type(entry) is int for entry in value):
            changed |= _shorter(name, value)
    if values.get("num_key_value_heads") == values.get("num_attention_heads"):  # it may not know groups of heads
        changed |= {"num_key_value_heads": changed["num_attention_heads"]} if "num_key_value_heads" in changed else {}
    return changed


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return both, of what both have the other's, inner dicts likewise."""
    inner = {
        name: _merged(one[name], value) for name, value in other.items() if isinstance(value, dict) and name in one
    }
    return one | other | inner


def _shorter(name: str, value: list[int]) -> dict[str, list[int]]:
    """Return a list of depths with one layer each, of widths narrow ones."""
    if name in ("depths", "depth", "num_block_repeats", "n_attn_blocks", "block_sizes"):
        return {name: [1] * len(value)}
    if name in ("conv_dim", "tdnn_dim"):
        return {name: [32] * len(value)}
    if name == "image_size":
        return {name: [SMALL[name]] * len(value)}
    return {}


def _calls(network: nn.Module, config: Any) -> Inputs:
    """Return how an architecture of transformers is called."""
    takes = inspect.signature(network.forward).parameters
    if "pixel_values" in takes and "input_ids" not in takes:
        side = getattr(config, "image_size", 64)
        picture = pictures(getattr(config, "num_channels", 3), side if isinstance(side, int) else side[0])
        return lambda rows, larger: {"pixel_values": picture(rows, larger)}
    if "input_values" in takes:
        if hasattr(config, "num_mel_bins"):
            return lambda rows, larger: {"input_values": torch.randn(rows, config.max_length, config.num_mel_bins)}
        return lambda rows, larger: {"input_values": torch.randn(rows, SAMPLES + 1000 * larger)}
    if "input_features" in takes:
        if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
            frames = 2 * config.max_source_positions
            return lambda rows, larger: {"input_features": torch.randn(rows, config.num_mel_bins, frames)}
        width = config.feature_projection_input_dim
        return lambda rows, larger: {"input_features": torch.randn(rows, FRAMES + 16 * larger, width)}
    return lambda rows, larger: texts(rows, TOKENS + 8 * larger, masked="attention_mask" in takes)


def texts(rows: int, length: int, *, masked: bool) -> dict[str, Tensor]:
    """Return token ids [rows length] that end with 2, every second row padded, and the mask that says so."""
    ids, mask = torch.randint(3, VOCABULARY, (rows, length)), torch.ones(rows, length, dtype=torch.int64)
    padding = length // 4 if masked else 0
    mask[1::2, length - padding :] = 0
    ids[::2, -1], ids[1::2, length - padding - 1] = 2, 2
    return {"input_ids": ids * mask, "attention_mask": mask} if masked else {"input_ids": ids}
