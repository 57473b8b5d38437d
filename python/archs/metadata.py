"""The metadata of a tiny model's file, from its spec, defaults and overrides."""

from __future__ import annotations

import re
from typing import Any

from specs import BASE, EXPERTS, MAMBA, SPECS

# what an architecture without a spec of its own gets besides BASE; harmless where it is not read
GENERIC = {
    **MAMBA,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.sliding_window": 128,
    "attention.sliding_window_pattern": 2,
    "attention.q_lora_rank": 128,
    "attention.kv_lora_rank": 128,
    "attention.relative_buckets_count": 32,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "time_mix_extra_dim": 64,
    "time_decay_extra_dim": 128,
    "full_attention_interval": 2,
    "rope.dimension_sections": [8, 12, 12, 0],
    "wkv.head_size": 64,
    "shortconv.l_cache": 3,
    "kda.head_dim": 64,
    "xielu.alpha_n": 1.0,
    "xielu.alpha_p": 1.0,
    "xielu.beta": 1.0,
    "xielu.eps": 1e-7,
    "attention.indexer.head_count": 64,
    "attention.indexer.key_length": 128,
    "attention.indexer.top_k": 65536,
    "attention.indexer.block_size": 4,
    "attention.indexer.local_blocks": 1,
    "hrm.layers_per_stack": 1,
    "hrm.h_cycles": 1,
    "hrm.l_cycles": 1,
}


# architectures without a dense form (tests/test-llama-archs.cpp)
MOE = {
    "llama4",
    "cohere2moe",
    "grok",
    "qwen2moe",
    "qwen3moe",
    "qwen3next",
    "qwen3vlmoe",
    "qwen35moe",
    "qwen4exp",
    "phimoe",
    "dbrx",
    "olmoe",
    "arctic",
    "deepseek",
    "deepseek2",
    "deepseek32",
    "dots3note",
    "deepseek4",
    "glm4moe",
    "glm-dsa",
    "exaone-moe",
    "bailingmoe",
    "bailingmoe2",
    "bailingmoe3",
    "dots1",
    "afmoe",
    "ernie4_5-moe",
    "hunyuan-moe",
    "hy_v3",
    "hy_v4",
    "gpt-oss",
    "lfm2moe",
    "smallthinker",
    "llada-moe",
    "grovemoe",
    "minimax-01",
    "minimax-m2",
    "minimax-m3",
    "rnd1",
    "mimo2",
    "kimi-linear",
    "kimi-k3",
    "glm5-next",
    "step35",
    "mistral4",
    "mellum",
    "laguna",
    "maple",
    "granitemoe",
    "nemotron_h_moe",
}


def metadata_of(name: str, overrides: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, metadata with full keys, options."""
    arch, *parts = SPECS.get(name, (name, GENERIC, EXPERTS) if name in MOE else (name, GENERIC))
    merged: dict[str, Any] = {**BASE}
    for part in [*parts, overrides]:
        merged.update(part)
    options = {k: v for k, v in merged.items() if k.startswith("_")}
    dropped = options.get("_drop_keys")
    meta = {
        "general.architecture": arch,
        "general.name": "tiny random",
    }  # the loader reacts to some names
    for key, value in merged.items():
        if not key.startswith("_") and not (dropped and re.search(dropped, key)):
            meta[
                key if key.split(".")[0] in ("general", "tokenizer", "xielu") else f"{arch}.{key}"
            ] = value
    meta["tokenizer.ggml.model"] = "test"  # llama.cpp's own test vocabulary
    meta["tokenizer.ggml.tokens"] = [f"tok_{i}" for i in range(merged["vocab_size"])]
    meta["tokenizer.ggml.scores"] = [0.0] * merged["vocab_size"]
    return arch, meta, options
