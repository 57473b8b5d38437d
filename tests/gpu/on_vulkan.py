"""``python -m gpu.on_vulkan MODEL``: a model whose layers all lie on the first Vulkan device.

A software device will do: ``GGML_VK_VISIBLE_DEVICES=0`` makes ggml take one.
"""

from __future__ import annotations

import sys
import time

from .on_device import evaluate, load, near


def main() -> None:
    (model,) = sys.argv[1:]
    want = evaluate(load(model, kv="balanced", n_gpu_layers=0, offload_kqv=False))
    start = time.monotonic()
    llm = load(model, kv="balanced", n_gpu_layers=-1, verbose=True)
    near(evaluate(llm), want)
    print(f"{time.monotonic() - start:.0f} s the first time")
    start = time.monotonic()
    near(evaluate(load(model, kv="balanced", n_gpu_layers=-1)), want)
    print(f"{time.monotonic() - start:.0f} s with its shaders there")
    chat = load(model, kv="balanced", n_gpu_layers=-1)
    messages = [{"role": "user", "content": "Name three colours."}]
    reply = chat.create_chat_completion(messages, max_tokens=12, temperature=0)
    print("reply:", reply["choices"][0]["message"]["content"])
    print("passed")


if __name__ == "__main__":
    main()
