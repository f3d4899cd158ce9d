"""Tiny random models of all families of causal language models that `transformers` can build from a configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WORDS, LARGEST = 400, 4_000_000  # tokens; most parameters of a model that is still tiny
_SIZES: dict[int, str] = {  # by value, what configurations call their sizes
    WORDS: "vocab_size vocab_size_per_layer_input",
    128: "max_position_embeddings n_positions n_ctx max_sequence_length max_seq_len",
    64: "mamba_d_ssm index_topk",
    48: "intermediate_size d_ff ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner inner_dim dff ffn_hidden_size intermediate_size_mlp "
    "block_ff_dim",
    32: "hidden_size d_model n_embd embed_dim dim word_embed_proj_dim embedding_size lru_width",
    16: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size shared_intermediate_size q_lora_rank kv_lora_rank "
    "moe_shared_expert_intermediate_size mamba_d_head mamba_head_dim mamba_headdim",
    8: "head_dim d_kv kv_channels qk_nope_head_dim qk_rope_head_dim v_head_dim mamba_d_state ssm_state_size state_size chunk_size "
    "mamba_chunk_size linear_key_head_dim linear_value_head_dim sliding_window attention_window_size attention_window window_size "
    "block_multiple_of index_head_dim laurel_rank hidden_size_per_layer_input",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_decoder_attention_heads "
    "num_encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts mamba_n_heads mamba_num_heads "
    "mamba_dt_rank time_step_rank linear_num_value_heads mamba_d_conv rotary_dim",
    2: "num_hidden_layers num_layers n_layer n_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers "
    "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k mamba_expand "
    "n_mamba_heads linear_num_key_heads index_n_heads eos_token_id",
    1: "n_group topk_group mamba_n_groups mamba_ngroups n_groups type_vocab_size bos_token_id",
    0: "pad_token_id num_kv_shared_layers",
}
SIZES = {name: value for value, names in _SIZES.items() for name in names.split()}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"]},
    "jamba": {"num_hidden_layers": 8},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16, "expand": 2},
    "nemotron": {"num_key_value_heads": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    **{name: {"num_hidden_layers": 4} for name in ("lfm3", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
}
TWINS = {  # names with the same text model as another one
    *(
        "fuyu",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gemma4_unified",
        "gemma4_unified_assistant",
        "got_ocr2",
        "gpt-sw3",
        "internlm3",
        "iquestcoder",
    ),
    *("llama4", "moss_transcribe_diarize", "qwen3_5", "qwen3_5_moe"),
}
FAMILIES = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in TWINS]


def config(name: str) -> Any:
    """A tiny configuration of a family."""
    default: Any = CONFIG_MAPPING[name]()
    text = default.get_text_config(decoder=True)
    known = (default if type(text) is type(default) or hasattr(default, "decoder_layers") else text).to_dict()
    cls: Any = type(default) if type(text) is type(default) or hasattr(default, "decoder_layers") else type(text)
    sizes = {k: v for k, v in SIZES.items() if isinstance(known.get(k), int) and k not in getattr(cls, "attribute_map", {})}
    if "qk_rope_head_dim" in known:  # heads of latent attention have keys and values of their own
        sizes.pop("head_dim", None)
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    built = cls(**{**sizes, **SPECIAL.get(name, {})})
    built.is_decoder = True
    return built


def build(name: str) -> Any:
    """A tiny model with random weights that depend on places and on all tokens before. Raises: errors of any kind where there is none."""
    with torch.device("meta"):
        if sum(p.numel() for p in AutoModelForCausalLM.from_config(config(name)).parameters()) > LARGEST:
            raise ValueError(f"{name} is large")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config(name)).eval()
        for path, weight in model.named_parameters():
            if path.endswith("weight") and weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.15)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 5, 6]]))  # some need more than token ids
    return model
