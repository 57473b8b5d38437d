"""Hyperparameters of tiny models, by architecture: what their files say, and nothing else.

The values keep what attention depends on (head dims, grouping, windows, layer patterns, caps)
and make the rest small.
"""

from __future__ import annotations

from typing import Any

N_VOCAB = 512

BASE = {
    "vocab_size": N_VOCAB,
    "context_length": 32768,
    "embedding_length": 256,
    "features_length": 256,
    "block_count": 4,
    "leading_dense_block_count": 1,
    "feed_forward_length": 384,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.group_norm_epsilon": 1e-5,
    "attention.group_norm_groups": 8,
    "use_parallel_residual": False,
    "rope.freq_base": 1000000.0,
}
EXPERTS = {
    "expert_count": 4,
    "expert_used_count": 2,
    "expert_feed_forward_length": 192,
    "expert_shared_feed_forward_length": 96,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "expert_group_scale": 1.0,
    "experts_per_group": 1,
    "interleave_moe_layer_step": 2,
    "expert_latent_length": 192,
    "expert_weights_norm": True,
}
MAMBA = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 512,
    "ssm.state_size": 64,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 2,
}
DELTA = {  # gated delta net of qwen3next / qwen35
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 512,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "full_attention_interval": 4,
}
TINY = {"embedding_length": 64, "feed_forward_length": 64}
MLA = {
    "attention.q_lora_rank": 128,
    "attention.kv_lora_rank": 512,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "rope.dimension_count": 64,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.head_count_kv": 1,
}


def dims(d: int, n_head: int = 4, n_kv: int = 2) -> dict[str, Any]:
    """Heads of one size, as metadata."""
    return {
        "attention.key_length": d,
        "attention.value_length": d,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_kv,
    }


def pattern(*kinds: Any, n: int) -> list[Any]:
    """``n`` layers of these kinds in turns."""
    return [kinds[i % len(kinds)] for i in range(n)]


# name: (architecture, parts of metadata ...). Keys that start with "_" are options of the writer:
#   _emb: standard deviation of token embeddings; _qk: gain of query and key weights;
#   _qk_norm: value of the weights that normalise queries and keys;
#   _drop: regular expression of tensors to leave out of the file; _drop_keys: the same of keys
SPECS: dict[str, tuple[Any, ...]] = {
    "qwen2": ("qwen2", dims(64, 8, 2), {"embedding_length": 512}),
    "qwen3": ("qwen3", dims(128, 4, 2)),
    "qwen3moe": ("qwen3moe", dims(128, 4, 2), EXPERTS),
    "qwen3next": (
        "qwen3next",
        dims(256, 4, 1),
        EXPERTS,
        DELTA,
        {"block_count": 8, "rope.dimension_count": 64},
    ),
    "qwen35": (
        "qwen35",
        dims(256, 4, 1),
        DELTA,
        {"block_count": 8, "rope.dimension_count": 64, "rope.dimension_sections": [11, 11, 10, 0]},
    ),
    # with the layer for multi-token prediction: load it with llama_model_params.load_mtp
    "qwen35-mtp": (
        "qwen35",
        dims(256, 4, 1),
        DELTA,
        {
            "block_count": 9,
            "nextn_predict_layers": 1,
            "rope.dimension_count": 64,
            "rope.dimension_sections": [11, 11, 10, 0],
        },
    ),
    "qwen35moe": (
        "qwen35moe",
        dims(256, 4, 1),
        EXPERTS,
        DELTA,
        {"block_count": 8, "rope.dimension_count": 64, "rope.dimension_sections": [11, 11, 10, 0]},
    ),
    "gemma": ("gemma", dims(256, 4, 1), {"_emb": 1 / 16}),
    "gemma2": (
        "gemma2",
        dims(256, 4, 2),
        {
            "attention.sliding_window": 256,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 30.0,
            "_emb": 1 / 16,
            "_qk": 2.0,
        },
    ),
    "gemma3": (
        "gemma3",
        dims(256, 4, 1),
        {"block_count": 12, "attention.sliding_window": 512, "_emb": 1 / 16},
    ),
    "gemma3-nope-swa": ("gemma3", dims(256, 4, 1), {"_emb": 1 / 16}),
    "gemma3n": (
        "gemma3n",
        dims(256, 2, 1),
        {
            "block_count": 30,
            "embedding_length": 128,
            "feed_forward_length": 192,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": 5,
            "_emb": 1 / 11,
            "_qk_norm": 0.4,
        },
    ),
    "gemma3n-unshared": (
        "gemma3n",
        dims(256, 2, 1),
        {
            "block_count": 20,
            "embedding_length": 128,
            "feed_forward_length": 192,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": 5,
            "_emb": 1 / 11,
            "_qk_norm": 0.4,
        },
    ),
    # as E2B and E4B in small: global head dim 512, sliding 256, and the last third of the layers
    # shares keys and values
    "gemma4": (
        "gemma4",
        dims(512, 4, 1),
        {
            "block_count": 15,
            "attention.sliding_window": 512,
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
            "attention.shared_kv_layers": 5,
            "embedding_length_per_layer_input": 32,
            "attention.sliding_window_pattern": pattern(True, True, True, True, False, n=15),
            "rope.freq_base_swa": 10000.0,
            "rope.dimension_count": 512,
            "rope.dimension_count_swa": 256,
            "_emb": 1 / 16,
            "_qk_norm": 0.35,
        },
    ),
    "gemma4-26b": (
        "gemma4",
        dims(512, 4, 1),
        EXPERTS,
        {
            "block_count": 12,
            "attention.sliding_window": 512,
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
            "attention.head_count_kv": pattern(2, 2, 2, 2, 2, 1, n=12),
            "attention.sliding_window_pattern": pattern(True, True, True, True, True, False, n=12),
            "rope.freq_base_swa": 10000.0,
            "rope.dimension_count": 512,
            "rope.dimension_count_swa": 256,
            "_emb": 1 / 16,
            "_qk_norm": 0.35,
        },
    ),
    # what no Gemma 4 has: global head dim 256, to see the rest of the architecture packed
    "gemma4-d256": (
        "gemma4",
        dims(256, 4, 1),
        {
            "block_count": 10,
            "attention.sliding_window": 512,
            "attention.key_length_swa": 128,
            "attention.value_length_swa": 128,
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 32,
            "attention.sliding_window_pattern": pattern(True, True, True, True, False, n=10),
            "rope.freq_base_swa": 10000.0,
            "rope.dimension_count": 256,
            "rope.dimension_count_swa": 128,
            "_emb": 1 / 16,
            "_qk_norm": 0.4,
        },
    ),
    "gemma4-d256-shared": (
        "gemma4",
        dims(256, 4, 1),
        {
            "block_count": 15,
            "attention.sliding_window": 512,
            "attention.key_length_swa": 128,
            "attention.value_length_swa": 128,
            "attention.shared_kv_layers": 5,
            "embedding_length_per_layer_input": 32,
            "attention.sliding_window_pattern": pattern(True, True, True, True, False, n=15),
            "rope.freq_base_swa": 10000.0,
            "rope.dimension_count": 256,
            "rope.dimension_count_swa": 128,
            "_emb": 1 / 16,
            "_qk_norm": 0.4,
        },
    ),
    # drafts over the cells of a gemma4 target (head dims as gemma4-d256 and gemma4)
    "gemma4-assistant-d256": (
        "gemma4-assistant",
        dims(256, 4, 1),
        {
            "block_count": 4,
            "nextn_predict_layers": 4,
            "embedding_length": 128,
            "embedding_length_out": 256,
            "attention.sliding_window": 512,
            "attention.key_length_swa": 128,
            "attention.value_length_swa": 128,
            "attention.sliding_window_pattern": [True, True, True, False],
            "rope.freq_base_swa": 10000.0,
            "rope.dimension_count": 256,
            "rope.dimension_count_swa": 128,
            "_emb": 1 / 16,
            "_qk_norm": 0.4,
        },
    ),
    "gpt-oss": (
        "gpt-oss",
        dims(64, 16, 2),
        EXPERTS,
        {"block_count": 6, "attention.sliding_window": 128, "expert_gating_func": 3},
    ),
    "llama": ("llama", dims(128, 4, 2)),
    "llama-moe": ("llama", dims(128, 4, 2), EXPERTS),
    "llama4": ("llama4", dims(128, 4, 2), EXPERTS, {"block_count": 8}),
    "mistral3": (
        "mistral3",
        dims(128, 4, 2),
        {
            "attention.temperature_scale": 0.1,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 256,
            "rope.scaling.yarn_beta_fast": 32.0,
            "rope.scaling.yarn_beta_slow": 1.0,
            "rope.scaling.yarn_log_multiplier": 1.0,
        },
    ),
    "mistral4": ("mistral4", MLA, EXPERTS, {"embedding_length": 128}),
    "phi2": ("phi2", dims(80, 4, 4), {"embedding_length": 320, "rope.dimension_count": 32}),
    "phi3": ("phi3", dims(96, 4, 4), {"embedding_length": 384, "attention.sliding_window": 256}),
    "phi4": ("phi3", dims(128, 4, 2), {"embedding_length": 512}),
    "phimoe": ("phimoe", dims(128, 4, 2), EXPERTS, {"embedding_length": 512}),
    "glm4": ("glm4", dims(128, 4, 2), {"rope.dimension_count": 64}),
    "glm4moe": ("glm4moe", dims(128, 12, 1), EXPERTS, {"rope.dimension_count": 64}),
    "deepseek2": ("deepseek2", MLA, EXPERTS, {"attention.head_count": 4}),
    "deepseek2-nomla": (
        "deepseek2",
        {**MLA, **dims(192, 4, 4), "attention.value_length": 128},
        EXPERTS,
        {"_drop_keys": r"_mla$"},
    ),
    "granite": (
        "granite",
        dims(64, 8, 2),
        {
            "attention.scale": 0.015625 * 8,
            "residual_scale": 0.5,
            "embedding_scale": 2.0,
            "logit_scale": 1.0,
        },
    ),
    "granitehybrid": (
        "granitehybrid",
        MAMBA,
        dims(128, 4, 2),
        {"block_count": 8, "attention.head_count_kv": pattern(0, 0, 0, 2, n=8)},
    ),
    "lfm2": (
        "lfm2",
        dims(64, 8, 2),
        {
            "embedding_length": 512,
            "block_count": 6,
            "shortconv.l_cache": 3,
            "attention.head_count_kv": pattern(0, 0, 2, n=6),
        },
    ),
    "lfm2-swa": (
        "lfm2",
        dims(64, 8, 2),
        {
            "embedding_length": 512,
            "block_count": 6,
            "shortconv.l_cache": 3,
            "attention.head_count_kv": pattern(0, 0, 2, n=6),
            "attention.sliding_window": 256,
        },
    ),
    "lfm2moe": (
        "lfm2moe",
        dims(64, 8, 2),
        EXPERTS,
        {
            "embedding_length": 512,
            "block_count": 6,
            "shortconv.l_cache": 3,
            "attention.head_count_kv": pattern(0, 0, 2, n=6),
        },
    ),
    "nemotron_h": (
        "nemotron_h",
        MAMBA,
        dims(128, 4, 2),
        {
            "block_count": 8,
            "attention.head_count_kv": pattern(0, 0, 2, 0, n=8),
            "feed_forward_length": pattern(0, 384, 0, 384, n=8),
        },
    ),
    "smollm3": ("smollm3", dims(128, 4, 1)),
    "olmo2": ("olmo2", dims(128, 4, 2), {"embedding_length": 512}),
    "olmo3": (
        "olmo2",
        dims(128, 4, 2),
        {"embedding_length": 512, "block_count": 8, "attention.sliding_window": 256},
    ),
    "cohere2": (
        "cohere2",
        dims(128, 4, 2),
        {
            "embedding_length": 512,
            "block_count": 8,
            "attention.sliding_window": 256,
            "logit_scale": 1.0,
        },
    ),
    "command-r": ("command-r", dims(128, 4, 4), {"embedding_length": 512, "logit_scale": 1.0}),
    "falcon-h1": ("falcon-h1", MAMBA, dims(64, 4, 2)),
    "jamba": (
        "jamba",
        MAMBA,
        dims(128, 4, 2),
        {
            "embedding_length": 512,
            "ssm.inner_size": 1024,
            "block_count": 8,
            "attention.head_count_kv": pattern(0, 0, 0, 2, n=8),
        },
    ),
    "mamba": ("mamba", MAMBA),
    "mamba2": ("mamba2", MAMBA),
    "bloom": ("bloom", dims(64, 4, 4)),
    "mpt": ("mpt", dims(64, 4, 4), {"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 8.0}),
    "mpt-odd": ("mpt", dims(64, 6, 6), {"embedding_length": 384, "attention.max_alibi_bias": 8.0}),
    "gpt2": ("gpt2", dims(64, 4, 4), {"context_length": 2048}),
    "stablelm": ("stablelm", dims(80, 4, 4), {"embedding_length": 320, "rope.dimension_count": 20}),
    "starcoder2": ("starcoder2", dims(128, 4, 2), {"embedding_length": 512}),
    "starcoder": ("starcoder", dims(128, 4, 1), {"embedding_length": 512, "context_length": 2048}),
    "gptneox": ("gptneox", dims(80, 4, 4), {"embedding_length": 320, "rope.dimension_count": 20}),
    "falcon": ("falcon", dims(64, 7, 1), {"embedding_length": 448}),
    "t5": (
        "t5",
        dims(64, 4, 4),
        {"attention.relative_buckets_count": 32, "decoder_start_token_id": 0},
    ),
    "bert": (
        "bert",
        dims(64, 4, 4),
        {"attention.causal": False, "pooling_type": 1, "tokenizer.ggml.token_type_count": 2},
    ),
    "gemma-embedding": (
        "gemma-embedding",
        dims(256, 3, 1),
        {"attention.sliding_window": 256, "pooling_type": 1, "_emb": 1 / 16},
    ),
    "qwen2vl": (
        "qwen2vl",
        dims(128, 4, 2),
        {"embedding_length": 512, "rope.dimension_sections": [16, 24, 24, 0]},
    ),
    "qwen3vl": (
        "qwen3vl",
        dims(128, 4, 2),
        {"rope.dimension_sections": [24, 20, 20, 0], "n_deepstack_layers": 0},
    ),
    "qwen3vlmoe": (
        "qwen3vlmoe",
        dims(128, 4, 2),
        EXPERTS,
        {"rope.dimension_sections": [24, 20, 20, 0], "n_deepstack_layers": 0},
    ),
    "minicpm3": (
        "minicpm3",
        dims(96, 4, 4),
        {
            "attention.value_length": 64,
            "attention.q_lora_rank": 128,
            "attention.kv_lora_rank": 128,
            "rope.dimension_count": 32,
        },
    ),
    "minicpm": (
        "minicpm",
        dims(64, 4, 4),
        {"residual_scale": 0.5, "embedding_scale": 2.0, "logit_scale": 1.0},
    ),
    "grok": ("grok", dims(128, 4, 2), EXPERTS, {"embedding_length": 512, "logit_scale": 1.0}),
    "baichuan-13b": ("baichuan", dims(64, 4, 4), {"block_count": 40}),
    "exaone4": (
        "exaone4",
        dims(128, 4, 2),
        {"embedding_length": 512, "block_count": 8, "attention.sliding_window": 256},
    ),
    "openelm": ("openelm", dims(64, 4, 2)),
    "smallthinker": ("smallthinker", dims(128, 4, 2), EXPERTS, {"attention.sliding_window": 256}),
    "mimo2": (
        "mimo2",
        dims(192, 4, 2),
        EXPERTS,
        {
            "attention.value_length": 128,
            "attention.sliding_window": 128,
            "attention.key_length_swa": 192,
            "attention.value_length_swa": 128,
            "attention.sliding_window_pattern": [0, 1, 1, 1],
        },
    ),
    "minimax-m2": ("minimax-m2", dims(128, 6, 1), EXPERTS, {"rope.dimension_count": 64}),
    "minimax-m3": (
        "minimax-m3",
        dims(128, 4, 2),
        EXPERTS,
        {
            "rope.dimension_count": 64,
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 65536,
            "attention.indexer.block_size": 4,
            "attention.indexer.local_blocks": 1,
        },
    ),
    "kimi-linear": (
        "kimi-linear",
        MLA,
        EXPERTS,
        {
            "block_count": 4,
            "attention.head_count": 4,
            "attention.head_count_kv": [0, 0, 0, 1],
            "kda.head_dim": 128,
            "ssm.conv_kernel": 4,
        },
    ),
    "deepseek32": (
        "deepseek32",
        MLA,
        EXPERTS,
        {
            "attention.indexer.head_count": 64,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 2048,
        },
    ),
    "deepseek4": (
        "deepseek4",
        dims(64, 8, 1),
        EXPERTS,
        {
            "embedding_length": 512,
            "rope.dimension_count": 32,
            "attention.q_lora_rank": 64,
            "attention.output_group_count": 8,
            "attention.output_lora_rank": 32,
            "attention.compress_ratios": [0, 0, 4, 128],
            "attention.compress_rope_freq_base": 160000.0,
            "hyper_connection.count": 4,
            "hyper_connection.sinkhorn_iterations": 2,
            "hyper_connection.epsilon": 1e-6,
            "hash_layer_count": 0,
            "swiglu_clamp_exp": 10.0,
            "expert_weights_scale": 1.0,
            "expert_gating_func": 4,
            "attention.sliding_window": 128,
            "attention.sliding_window_pattern": 2,
            "attention.indexer.head_count": 64,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 65536,
        },
    ),
    # layers without any attention among others
    "deci": (
        "deci",
        dims(64, 4, 2),
        {
            "attention.head_count": [4, 0, 4, 4],
            "attention.head_count_kv": [2, 0, 2, 2],
            "feed_forward_length": [384, 384, 384, 384],
        },
    ),
    "openelm-layers": (
        "openelm",
        dims(64, 4, 2),
        {
            "attention.head_count": [4, 8, 4, 8],
            "attention.head_count_kv": [1, 2, 1, 2],
            "feed_forward_length": [384, 512, 384, 512],
        },
    ),
    # cache shapes of released models (layers, heads, head dims, windows) on small hidden sizes
    "shape-gemma3-4b": (
        "gemma3",
        dims(256, 8, 4),
        TINY,
        {"block_count": 34, "attention.sliding_window": 1024},
    ),
    "shape-gemma3-27b": (
        "gemma3",
        dims(128, 32, 16),
        TINY,
        {"block_count": 62, "attention.sliding_window": 1024},
    ),
    "shape-gemma2-9b": (
        "gemma2",
        dims(256, 16, 8),
        TINY,
        {"block_count": 42, "attention.sliding_window": 4096, "attn_logit_softcapping": 50.0},
    ),
    "shape-gpt-oss-20b": (
        "gpt-oss",
        dims(64, 64, 8),
        EXPERTS,
        TINY,
        {"block_count": 24, "attention.sliding_window": 128, "expert_gating_func": 3},
    ),
    "shape-llama4-scout": ("llama4", dims(128, 40, 8), EXPERTS, TINY, {"block_count": 48}),
    "shape-cohere2-7b": (
        "cohere2",
        dims(128, 1, 1),
        TINY,
        {
            "embedding_length": 128,
            "block_count": 32,
            "attention.sliding_window": 4096,
            "logit_scale": 1.0,
        },
    ),
    "shape-qwen35-9b": (
        "qwen35",
        dims(256, 16, 4),
        TINY,
        {
            **DELTA,
            "ssm.inner_size": 4096,
            "ssm.time_step_rank": 32,
            "ssm.group_count": 16,
            "block_count": 32,
            "rope.dimension_count": 64,
            "rope.dimension_sections": [11, 11, 10, 0],
        },
    ),
    "shape-qwen3-8b": ("qwen3", dims(128, 32, 8), TINY, {"block_count": 36}),
    "shape-lfm2-1.2b": (
        "lfm2",
        dims(64, 32, 8),
        {
            "embedding_length": 2048,
            "feed_forward_length": 64,
            "block_count": 16,
            "shortconv.l_cache": 3,
            "attention.head_count_kv": [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0],
        },
    ),
    # head dims one by one
    **{
        f"llama-d{d}": ("llama", dims(d, 4, 2), {"rope.dimension_count": d})
        for d in (16, 24, 32, 40, 48, 72, 80, 96, 112, 120, 160, 192, 224, 256, 264, 320, 512)
    },
    "llama-gqa71": ("llama", dims(64, 71, 1)),
    "llama-gqa7": ("llama", dims(64, 14, 2)),
    "llama-gqa16": ("llama", dims(64, 16, 1)),
}
