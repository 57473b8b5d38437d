"""``xquant serve`` with a real model: protocols, slots, figures, many clients."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Answer, Server, need_program, running

pytestmark = pytest.mark.model

CTX = 1024
SLOTS = 4
TIE = 0.05  # nats: tokens closer than this may change places where sequences are computed together
GROWTH = 24 << 20  # bytes that a server may grow by under load, for threads and their buffers

WORDS = ["river", "stone", "lamp", "paper", "green", "music", "winter", "table", "engine", "bread"]
LOREM = "The keeper of the lighthouse wrote down every ship that passed, with its hour and flag. "
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
}
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}
SEA = [{"role": "user", "content": "Why is the sea salty? Answer in one sentence."}]


@pytest.fixture(scope="module")
def server(
    smollm2: Path, packed_library: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    saves = ("--slot-save-path", f"{folder}{os.sep}")
    with running(folder, smollm2, "--ctx", CTX, "--slots", SLOTS, passed=saves) as one:
        yield one


def prompts(count: int, words: int = 220) -> list[str]:
    """Texts long enough to be packed, all different from their first word on."""
    made = []
    for seed in range(count):
        draw = random.Random(seed)
        made.append(" ".join(draw.choice(WORDS) for _ in range(words)) + ".\n" + LOREM)
    return made


def check_same(alone: Answer, other: Answer) -> None:
    gap = alone.first_difference(other)
    assert gap is None or gap < TIE, (alone.text, other.text)


# ---- figures ----


def test_metrics_tell_the_true_bytes_and_bits(server: Server, smollm2: Path) -> None:
    from xquant_gguf import Llama

    told = server.metrics()
    with Llama(str(smollm2), n_ctx=CTX, n_batch=256) as llm:
        one = llm.kv_cache.snapshot()
    assert told["xquant:kv_bytes"] == SLOTS * one.bytes_total
    for part in ("codes", "scales", "residual", "unpacked"):
        found = told[f'xquant:kv_part_bytes{{part="{part}"}}']
        assert found == SLOTS * getattr(one, f"bytes_{part}")
    assert told["xquant:kv_true_bits"] == pytest.approx(one.true_bits)
    assert told["xquant:kv_code_bits"] == pytest.approx(2.0)
    assert told["xquant:kv_allocated_bits"] == pytest.approx(one.allocated_bits)
    assert told["xquant:kv_f16_bytes"] == SLOTS * one.bytes_f16
    assert told["xquant:kv_tokens_max"] == SLOTS * CTX
    assert told["xquant:recurrent_bytes"] == 0


def test_tokens_are_counted(server: Server) -> None:
    before = server.metrics()["xquant:kv_tokens"]
    server.complete(LOREM * 8, tokens=4, id_slot=3)
    after = server.metrics()["xquant:kv_tokens"]
    assert after > 100 and after != before


# ---- the cache under the server ----


def test_an_answer_is_that_of_the_package(server: Server, smollm2: Path) -> None:
    from xquant_gguf import Llama

    prompt = prompts(1)[0]
    found = server.complete(prompt, tokens=12)
    with Llama(str(smollm2), n_ctx=CTX) as llm:
        ids = llm.tokenize(prompt.encode(), add_bos=True, special=True)
        made: list[int] = []
        for token in llm.generate(ids, temp=0.0, repeat_penalty=1.0):
            made.append(token)
            if len(made) == 12:
                break
    alone = Answer(found.text, found.tokens, found.likely, 0)
    check_same(alone, Answer("", tuple(made), (), 0))


def test_a_prefix_is_not_read_again(server: Server) -> None:
    text = LOREM * 20
    first = server.complete(text, tokens=8, cache_prompt=True, id_slot=0)
    again = server.complete(text, tokens=8, cache_prompt=True, id_slot=0)
    longer = server.complete(text + LOREM, tokens=8, cache_prompt=True, id_slot=0)
    fresh = server.complete(text + LOREM, tokens=8, id_slot=1)
    assert first.reused < 100 < again.reused and longer.reused > 300
    check_same(first, again)
    check_same(fresh, longer)


def test_a_slot_is_saved_packed_and_goes_on_elsewhere(server: Server) -> None:
    text = LOREM * 20
    alone = server.complete(text, tokens=16, cache_prompt=True, id_slot=0)
    server.post("/slots/0?action=erase", {})
    server.complete(text, tokens=1, cache_prompt=True, id_slot=0)
    saved = server.post("/slots/0?action=save", {"filename": "slot.bin"})
    f16 = server.metrics()["xquant:kv_f16_bytes"] / (SLOTS * CTX)
    assert 0 < saved["n_written"] < 0.7 * saved["n_saved"] * f16
    server.post("/slots/1?action=erase", {})
    restored = server.post("/slots/1?action=restore", {"filename": "slot.bin"})
    assert restored["n_restored"] == saved["n_saved"]
    goes_on = server.complete(text, tokens=16, cache_prompt=True, id_slot=1)
    assert goes_on.reused > 300
    check_same(alone, goes_on)


def test_a_damaged_save_is_refused_and_nothing_else_happens(server: Server) -> None:
    server.complete(LOREM * 10, tokens=1, cache_prompt=True, id_slot=0)
    server.post("/slots/0?action=save", {"filename": "broken.bin"})
    path = server.log.parent / "broken.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    status, text = server.request("POST", "/slots/2?action=restore", {"filename": "broken.bin"})
    assert status == 400, text
    check_same(server.complete(LOREM, id_slot=0), server.complete(LOREM, id_slot=2))


def test_a_full_context_ends_an_answer_and_refuses_a_prompt(server: Server) -> None:
    text = LOREM * 45
    body = {"prompt": text, "n_predict": 2000, "ignore_eos": True, "temperature": 0}
    found = server.post("/completion", body)
    assert found["truncated"] and found["stop_type"] == "limit"
    assert found["tokens_evaluated"] + found["tokens_predicted"] in (CTX - 1, CTX)
    status, text = server.request("POST", "/completion", {**body, "prompt": LOREM * 90})
    assert status == 400 and "exceeds the available context size" in text
    assert server.complete(LOREM).tokens


# ---- clients ----


def test_openai(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    whole = client.chat.completions.create(
        model="any", messages=SEA, temperature=0, max_tokens=24, seed=1
    )
    said = whole.choices[0].message.content
    assert said and whole.usage.completion_tokens > 1
    stream = client.chat.completions.create(
        model="any", messages=SEA, temperature=0, max_tokens=24, seed=1, stream=True
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len([part for part in parts if part]) > 3
    assert "".join(parts)[:10] == said[:10]
    assert client.models.list().data[0].id


def test_openai_json_schema(server: Server) -> None:
    openai = pytest.importorskip("openai")
    import json

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    made = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "Name a city and how many people live there."}],
        temperature=0,
        max_tokens=100,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": CITY, "strict": True},
        },
    )
    found = json.loads(made.choices[0].message.content)
    assert set(found) == {"city", "people"} and isinstance(found["people"], int)


def test_openai_tool_call(smollm2: Path, packed_library: None, tmp_path: Path) -> None:
    """With a template that knows tools, which SmolLM2's own does not."""
    openai = pytest.importorskip("openai")
    import json

    called = {"name": "get_weather", "arguments": json.dumps({"city": "Paris"})}
    call = {"id": "1", "type": "function", "function": called}
    wanted = json.dumps({"name": "get_weather", "arguments": {"city": "Rome"}})
    messages = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
        {"role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": f"Say exactly this:\n<tool_call>\n{wanted}\n</tool_call>"},
    ]
    template = ("--chat-template-file", Path(__file__).parent / "tools.jinja")
    with running(tmp_path, smollm2, "--ctx", CTX, "--slots", 1, passed=template) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        made = client.chat.completions.create(
            model="any",
            messages=messages,
            tools=[{"type": "function", "function": TOOL}],
            tool_choice="required",
            temperature=0,
            max_tokens=300,
        )
    assert made.choices[0].finish_reason == "tool_calls"
    found = made.choices[0].message.tool_calls[0].function
    assert found.name == "get_weather" and json.loads(found.arguments) == {"city": "Rome"}


def test_anthropic(server: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=server.url, api_key="none")
    settings = {"model": "any", "max_tokens": 24, "messages": SEA}
    settings["extra_body"] = {"temperature": 0}
    said = client.messages.create(**settings).content[0].text
    with client.messages.stream(**settings) as stream:
        parts = list(stream.text_stream)
    assert said and len(parts) > 3 and "".join(parts)[:10] == said[:10]


def test_langchain(server: Server) -> None:
    models = pytest.importorskip("langchain_openai")
    chat = models.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="any", temperature=0, max_tokens=24
    )
    said = chat.invoke("Why is the sea salty? Answer in one sentence.").content
    parts = [str(chunk.content) for chunk in chat.stream(SEA)]
    assert said and len([part for part in parts if part]) > 3
    assert "".join(parts)[:10] == str(said)[:10]


def test_who_hangs_up_frees_the_slot(server: Server) -> None:
    endless = {"prompt": LOREM, "n_predict": 800, "ignore_eos": True}
    begun = time.monotonic()
    for _ in range(2 * SLOTS):
        server.leave_after("/completion", endless, chunks=2)
    server.wait_idle()
    made = server.metrics()["llamacpp:tokens_predicted_total"]
    time.sleep(0.5)
    assert server.metrics()["llamacpp:tokens_predicted_total"] == made
    assert time.monotonic() - begun < 60


# ---- many clients ----


def load(server: Server, alone: dict[str, Answer], seconds: float, clients: int = 8) -> int:
    """Clients that ask, hang up at random, and compare; returns how many answers were compared."""
    until = time.monotonic() + seconds
    compared = [0] * clients
    wrong: list[BaseException] = []

    def client(index: int) -> None:
        draw = random.Random(index)
        try:
            while time.monotonic() < until and not wrong:
                prompt = draw.choice(list(alone))
                if draw.random() < 0.3:
                    body = {"prompt": prompt, "n_predict": 64, "ignore_eos": True}
                    server.leave_after("/completion", body, chunks=draw.randrange(8))
                else:
                    check_same(alone[prompt], server.complete(prompt, len(alone[prompt].tokens)))
                    compared[index] += 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    server.wait_idle()
    return sum(compared)


def test_eight_clients_in_four_slots_get_what_one_gets(server: Server) -> None:
    alone = {prompt: server.complete(prompt, 12) for prompt in prompts(4, words=120)}
    load(server, alone, 2)  # threads and buffers are made once
    before = server.resident()
    assert load(server, alone, 5) > 4
    assert server.resident() - before < GROWTH


@pytest.mark.slow
def test_a_minute_of_eight_clients(
    smollm2: Path, packed_library: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = float(os.environ.get("XQUANT_SERVE_SECONDS", "60"))
    with running(tmp_path, smollm2, "--ctx", CTX, "--slots", SLOTS) as server:
        alone = {prompt: server.complete(prompt, 24) for prompt in prompts(6, words=150)}
        load(server, alone, min(30, seconds / 4))
        before = server.resident()
        count = load(server, alone, seconds)
        after = server.resident()
    with capsys.disabled():
        print(
            f"\n{count} answers compared in {seconds:.0f} s, "
            f"memory {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after"
        )
    assert count > 8 and after - before < GROWTH


# ---- other servers ----


def test_embeddings(smollm2: Path, packed_library: None, tmp_path: Path) -> None:
    settings = ("--embeddings", "--pooling", "mean")
    with running(tmp_path, smollm2, "--ctx", CTX, "--slots", 2, passed=settings) as server:
        texts = ["A cat sleeps.", "A kitten is asleep.", LOREM * 20]
        body = server.post("/v1/embeddings", {"input": texts, "model": "any"})
        vectors = [row["embedding"] for row in body["data"]]
    near, far = (sum(a * b for a, b in zip(vectors[0], v)) for v in vectors[1:])
    assert near > far


def test_a_stock_cache_tells_its_bytes(smollm2: Path, packed_library: None, tmp_path: Path) -> None:
    with running(tmp_path, smollm2, "--kv", "f16", "--ctx", 512, "--slots", 1) as server:
        told = server.metrics()
        assert server.complete(LOREM).tokens
    assert told["xquant:kv_bytes"] == 30 * 2 * 3 * 64 * 2 * 512
    assert "xquant:kv_true_bits" not in told


def test_an_interrupt_ends_it_cleanly(smollm2: Path, packed_library: None, tmp_path: Path) -> None:
    import signal

    need_program()
    with running(tmp_path, smollm2, "--ctx", 512, "--slots", 1) as server:
        server.leave_after("/completion", {"prompt": LOREM, "n_predict": 400}, chunks=1)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
