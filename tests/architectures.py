"""Tiny configurations of what Transformers has causal language models of, by model type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from caseharden.lm.lm import LM

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
MAMBA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
DELTA: dict[str, Any] = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
WINDOW: dict[str, Any] = {"sliding_window": 8}
GEMMA3N: dict[str, Any] = {
    "num_hidden_layers": 10,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "num_kv_shared_layers": 4,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 2,
    "intermediate_size": [64] * 10,
    "activation_sparsity_pattern": [0.5] * 4 + [0.0] * 6,
}

CONFIGS: dict[str, dict[str, Any]] = {
    # attention to everything before
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "phi": {},
    "phi3": {},
    "gpt2": GPT2,
    "gpt_neox": {},
    "gptj": {**GPT2, "rotary_dim": 4},
    "gpt_bigcode": GPT2,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "stablelm": {},
    "starcoder2": {},
    "olmo2": {},
    "cohere": {},
    "granite": {},
    "smollm3": {},
    "glm4": {},
    "ernie4_5": {},
    "seed_oss": {},
    "nemotron": {},
    "ministral3": {},
    "hunyuan_v1_dense": {},
    # windows in some layers or all
    "mistral": WINDOW,
    "gemma2": {**WINDOW, "tie_word_embeddings": False},
    "gemma3_text": {**WINDOW, "num_hidden_layers": 6},
    "gemma3n_text": {**WINDOW, **GEMMA3N},
    "gemma4_text": {**WINDOW, "num_hidden_layers": 6, "global_head_dim": 8, "hidden_size_per_layer_input": 8},
    "gpt_neo": {**GPT2, "attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 8},
    "cohere2": {**WINDOW, "num_hidden_layers": 4},
    "olmo3": {**WINDOW, "num_hidden_layers": 4},
    "exaone4": {**WINDOW, "num_hidden_layers": 4},
    # mixtures of experts
    "mixtral": LOCAL,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS,
    "granitemoe": LOCAL,
    "gpt_oss": {**LOCAL, **WINDOW},
    "deepseek_v2": {**ROUTED, **LATENT},
    "deepseek_v3": {**ROUTED, **LATENT},
    "glm4_moe": ROUTED,
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 64, "num_hidden_layers": 4},
    # linear attention, state spaces and convolutions, alone or beside attention
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3], "mamba_expand": 2},
    "falcon_h1": {**MAMBA, "num_hidden_layers": 2, "mamba_d_ssm": 64},
    "granitemoehybrid": {
        **MAMBA,
        **LOCAL,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 32,
    },
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": DELTA,
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "minimax": {**LOCAL, "block_size": 8},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "lru_width": 32,
        "attention_window_size": 16,
        "block_types": ["recurrent", "recurrent", "attention"],
        "num_key_value_heads": 1,
    },
    "rwkv": {},
}
REFUSED = ("recurrent_gemma", "rwkv")
"""Those that read padding as if it were text."""


def tiny_model(model_type: str, tokenizer: Any) -> LM:
    """A random model of that type with the vocabulary of `tokenizer`, weights so large that answers differ."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this version of Transformers has no {model_type}")
    kind = CONFIG_MAPPING[model_type]
    known = {*getattr(kind, "__annotations__", {}), *kind().to_dict(), *kind.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    vocabulary = {name: len(tokenizer) for name in ("vocab_size", "vocab_size_per_layer_input") if name in known}
    special = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = kind(**{**sizes, **CONFIGS[model_type], **vocabulary, **special})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return LM(model, tokenizer, model_type)


def row(lm: LM) -> str:
    """The line of `docs/models.md` about a model's architecture."""
    can = lm.capabilities
    if not can.padding:
        return f"| `{lm.name}` | refused: it reads padding as text | |"
    rows = "native" if can.rows else "native, each answer reads its prompt"
    return f"| `{lm.name}` | {rows if can.cache else 'generate'} | {'yes' if can.gaps else 'no'} |"
