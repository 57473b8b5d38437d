"""One model, many threads: turns, close() at any moment, cancel(), and what is called too late."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import subprocess_env

from xquant_gguf.errors import CancelledError, ClosedError, SupersededError, XQuantError

pytestmark = pytest.mark.model

PARTS = ["f16", "balanced"]
LONG = "The lighthouse keeper counted the ships of the harbour every evening. " * 90
PROMPTS = ["Once upon a time", "The capital of Italy is", "def add(a, b):"]


@pytest.fixture
def load(smollm2: Path, packed_library: None) -> Iterator[Callable[..., Any]]:
    from xquant_gguf import Llama

    opened: list[Any] = []

    def one(kv: str = "balanced", **kwargs: Any) -> Any:
        settings = {"n_ctx": 2048, "n_threads": 2, "n_threads_batch": 2, **kwargs}
        opened.append(Llama(smollm2, kv=kv, **settings))
        return opened[-1]

    yield one
    for llm in opened:
        llm.close()


def greedy(llm: Any, prompt: str, count: int = 24) -> str:
    done = llm.create_completion(prompt, max_tokens=count, temperature=0.0)
    return str(done["choices"][0]["text"])


class Caught(threading.Thread):
    """A thread that keeps what its work returned or raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.work, self.result, self.error = work, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error

    def wait(self, seconds: float = 300) -> Any:
        self.join(seconds)
        assert not self.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.result


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, which may crash."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=subprocess_env()
    )


@pytest.mark.parametrize("kv", PARTS)
def test_three_threads_get_what_one_gets(load: Callable[..., Any], kv: str) -> None:
    alone = load(kv)
    expected = []
    for prompt in PROMPTS:
        alone.reset()
        expected.append(greedy(alone, prompt, 8))
    llm = load(kv)

    def ask(prompt: str) -> list[str]:
        return [greedy(llm, prompt, 8) for _ in range(2)]

    def stream(prompt: str) -> list[str]:
        chunks = llm.create_completion(prompt, max_tokens=8, temperature=0.0, stream=True)
        return ["".join(chunk["choices"][0]["text"] for chunk in chunks)]

    threads = [Caught(lambda p=p, f=f: f(p)) for p in PROMPTS for f in (ask, stream)]
    for thread, text in zip(threads, [text for text in expected for _ in range(2)]):
        assert set(thread.wait()) == {text}


def test_figures_and_words_are_counted_while_another_thread_reads(load: Callable[..., Any]) -> None:
    llm = load()
    reading = Caught(lambda: greedy(llm, LONG, 4))
    looks = 0
    while reading.is_alive():
        assert llm.kv_cache.tokens >= 0
        assert llm.tokenize(b"How long is this?")
        looks += 1
    reading.wait()
    assert looks >= 3


CLOSE = """
    import sys, threading, time
    from xquant_gguf import ClosedError, Llama
    kv, moment = sys.argv[2], float(sys.argv[3])
    llm = Llama(sys.argv[1], kv=kv, n_ctx=2048, n_threads=2, n_threads_batch=2)
    ends = []  # printed by one thread: two at once may mix their lines
    def work(stream):
        try:
            reply = llm.create_chat_completion(
                [{"role": "user", "content": "Tell me a long story. " * 60}], stream=stream)
            ends.append(f"done {len(list(reply))}")
        except ClosedError:
            ends.append("closed")
    threads = [threading.Thread(target=work, args=(s,)) for s in (True, False, True)]
    for thread in threads: thread.start()
    time.sleep(moment)
    begun = time.perf_counter()
    llm.close()
    assert time.perf_counter() - begun < 2, "close() took too long"
    for thread in threads: thread.join(20)
    for end in ends: print(end)
    print("alive", sum(thread.is_alive() for thread in threads))
"""


@pytest.mark.parametrize("kv", PARTS)
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.4, 1.5, 3.0])
def test_close_during_replies_of_other_threads(
    smollm2: Path, packed_library: None, kv: str, moment: float
) -> None:
    done = run(CLOSE, smollm2, kv, moment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["closed"] * 3 + ["alive 0"]


AFTER = """
    import inspect, sys
    from xquant_gguf import ClosedError, Llama
    llm = Llama(sys.argv[1], kv=sys.argv[2], n_ctx=512, logits_all=True)
    tokenizer, tokens = llm.tokenizer(), llm.tokenize(b"Hello you")
    llm.eval(tokens)
    state, stream = llm.save_state(), llm.create_completion("Once", stream=True, max_tokens=9)
    next(stream)
    ids = llm.generate(tokens)
    llm.close()
    calls = {
        "stream": lambda: next(stream), "generate started": lambda: next(ids),
        "tokenizer_": lambda: tokenizer.tokenize(b"a"), "decode": lambda: tokenizer.detokenize([1]),
        "ctx": lambda: llm.ctx, "model": lambda: llm.model, "kv_cache": lambda: llm.kv_cache.tokens,
        "enter": llm.__enter__, "_model": lambda: llm._model.vocab, "_ctx": lambda: llm._ctx.memory,
        "_batch": lambda: llm._batch.batch,
    }
    arguments = {
        "tokenize": (b"a",), "detokenize": ([1],), "eval": ([1],), "generate": ([1],),
        "embed": ("a",), "create_embedding": ("a",), "create_completion": ("a",),
        "__call__": ("a",),
        "create_chat_completion": ([{"role": "user", "content": "a"}],), "load_state": (state,),
    }
    needless = {"cancel", "close", "set_cache", "set_seed", "from_pretrained", "logits_to_logprobs",
                "longest_token_prefix", "create_chat_completion_openai_v1"}
    for name, _ in inspect.getmembers(Llama, inspect.isfunction):
        if name not in needless and (name == "__call__" or not name.startswith("_")):
            calls[name] = lambda name=name: getattr(llm, name)(*arguments.get(name, ()))
    print(len(calls))
    for name, call in calls.items():
        try:
            made = call()
            if hasattr(made, "__next__"):
                next(made)
            print(name, "worked")
        except ClosedError:
            pass
    llm.cancel(), llm.close(), llm.set_seed(1)
"""


@pytest.mark.parametrize("kv", PARTS)
def test_whatever_is_called_after_close_says_closed(
    smollm2: Path, packed_library: None, kv: str
) -> None:
    done = run(AFTER, smollm2, kv)
    assert done.returncode == 0, done.stderr
    count, *others = done.stdout.splitlines()
    assert int(count) > 25
    assert others == []


def test_with_closes(smollm2: Path) -> None:
    from xquant_gguf import Llama

    with Llama(smollm2, kv="f16", n_ctx=256) as llm:
        assert greedy(llm, "Hello", 2)
    with pytest.raises(ClosedError, match="closed Llama; load it again"):
        llm.tokenize(b"x")
    with pytest.raises(ClosedError), llm:
        pass


def test_close_in_a_callback_waits_for_the_end_of_the_call(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=256)

    def stop(ids: Any, scores: Any) -> bool:
        llm.close()
        return False

    from llama_cpp import StoppingCriteriaList

    with pytest.raises(ClosedError):
        llm.create_completion("Once", stopping_criteria=StoppingCriteriaList([stop]))
    with pytest.raises(ClosedError):
        llm.n_ctx()


@pytest.mark.parametrize("kv", PARTS)
@pytest.mark.parametrize("prompt", [LONG, "Once upon a time"])
def test_cancel_stops_reading_and_writing(load: Callable[..., Any], kv: str, prompt: str) -> None:
    llm = load(kv)
    expected = greedy(llm, "The capital of Italy is")
    llm.reset()
    assert not llm.cancel()
    for pause in (0.1, 0.6):
        call = Caught(lambda: llm.create_completion(prompt, max_tokens=None))
        time.sleep(pause)
        begun = time.perf_counter()
        assert llm.cancel()
        call.join(20)
        assert time.perf_counter() - begun < 0.5
        with pytest.raises(CancelledError, match="ask again"):
            call.wait()
        assert greedy(llm, "The capital of Italy is") == expected


@pytest.mark.parametrize("kv", PARTS)
def test_what_was_read_before_an_abort_is_as_it_was(load: Callable[..., Any], kv: str) -> None:
    """An aborted batch may have sealed tiles of older tokens, or half of them."""
    llm, other = load(kv, logits_all=True), load(kv, logits_all=True)
    tokens = llm.tokenize(LONG.encode())
    for one in (llm, other):
        one.eval(tokens[:400])
    for pause in (0.02, 0.1):
        reading = Caught(lambda: llm.eval(tokens[400:1400]))
        time.sleep(pause)
        assert llm.cancel()
        with pytest.raises(CancelledError):
            reading.wait()
        for one in (llm, other):
            assert one.n_tokens == 400
            one.eval(tokens[400:412])
        assert (llm.scores[400:412] == other.scores[400:412]).all()
        assert llm.kv_cache.tokens == other.kv_cache.tokens == 412
        llm.n_tokens = other.n_tokens = 400


@pytest.mark.parametrize("kv", PARTS)
def test_progress_of_a_prompt(load: Callable[..., Any], kv: str) -> None:
    plain, llm = load(kv), load(kv)
    prompt = LONG[:4000]
    expected = greedy(plain, prompt, 4)
    seen: list[tuple[int, int]] = []
    llm.prompt_progress = lambda read, total: seen.append((read, total))
    assert greedy(llm, prompt, 4) == expected
    total = len(llm.tokenize(prompt.encode(), False))
    assert [t for _, t in seen] == [total] * len(seen)
    assert [n for n, _ in seen] == sorted({n for n, _ in seen})
    assert seen[-1] == (total, total)
    assert len(seen) >= 2

    def stop(read: int, total: int) -> None:
        raise KeyboardInterrupt

    llm.reset()
    llm.prompt_progress = stop
    with pytest.raises(KeyboardInterrupt):
        greedy(llm, prompt, 4)
    assert 0 < llm.n_tokens < total
    llm.prompt_progress = None
    assert greedy(llm, prompt, 4) == expected


def test_a_suspended_stream_can_be_cancelled(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=512)
    stream = llm.create_completion("Once", max_tokens=99, stream=True)
    next(stream)
    assert llm.cancel()
    with pytest.raises(CancelledError):
        next(stream)
    assert list(stream) == []
    assert greedy(llm, "Hello", 2)


def test_closing_a_stream_ends_the_thread_that_waits_for_it(load: Callable[..., Any]) -> None:
    llm = load(n_ctx=4096)
    stream = llm.create_completion(LONG * 2, max_tokens=99, stream=True)
    waiting = Caught(lambda: list(stream))
    time.sleep(0.3)
    stream.close()
    waiting.join(1)
    with pytest.raises(CancelledError):
        waiting.wait(0)
    assert greedy(llm, "Hello", 2)


def test_a_stream_that_is_left_gives_the_model_back(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=512)
    for _ in llm.create_completion("Once", max_tokens=99, stream=True):
        break
    assert Caught(lambda: greedy(llm, "Hello", 2)).wait(20)


def test_others_wait_for_a_stream_and_its_own_thread_takes_over(load: Callable[..., Any]) -> None:
    llm = load("f16", n_ctx=512)
    expected = greedy(llm, "Once upon a time")
    stream = llm.create_completion("Once upon a time", max_tokens=24, temperature=0.0, stream=True)
    first = next(stream)["choices"][0]["text"]
    other = Caught(lambda: greedy(llm, "Hello", 2))
    time.sleep(0.3)
    assert other.is_alive()
    assert first + "".join(chunk["choices"][0]["text"] for chunk in stream) == expected
    assert other.wait()
    stream = llm.create_completion("Once upon a time", max_tokens=24, stream=True)
    next(stream)
    assert greedy(llm, "Hello", 2)
    with pytest.raises(SupersededError, match="use it up or close"):
        next(stream)


def test_streams_that_were_not_begun_can_be_read_one_after_the_other(
    load: Callable[..., Any],
) -> None:
    llm = load("f16", n_ctx=512)
    ask = [{"role": "user", "content": "Name the capital city of Italy."}]
    streams = [
        llm.create_chat_completion(ask, max_tokens=9, temperature=0.0, stream=True)
        for _ in range(2)
    ]
    texts = ["".join(c["choices"][0]["delta"].get("content", "") for c in s) for s in streams]
    assert texts[0] == texts[1] != ""


def test_a_handler_that_reads_by_itself_keeps_the_model(load: Callable[..., Any]) -> None:
    """As those for images do: eval first, and then a stream over what was read."""
    llm = load("f16", n_ctx=512)

    def handler(llama: Any, messages: Any, stream: bool, **kwargs: Any) -> Any:
        llama.reset()
        llama.eval(llama.tokenize(messages[0]["content"].encode()))
        return llama.create_completion(
            llama.input_ids[: llama.n_tokens].tolist(), max_tokens=8, temperature=0.0, stream=stream
        )

    llm.chat_handler = handler
    ask = [{"role": "user", "content": "Once upon a time"}]
    expected = llm.create_chat_completion(ask)["choices"][0]["text"]
    stream = llm.create_chat_completion(ask, stream=True)
    other = Caught(lambda: greedy(llm, "Hello", 2))
    time.sleep(0.3)
    assert other.is_alive()
    assert "".join(chunk["choices"][0]["text"] for chunk in stream) == expected
    assert other.wait()


def test_pieces_may_be_fetched_by_changing_threads(load: Callable[..., Any]) -> None:
    """As web servers do."""
    llm = load("f16", n_ctx=512)
    expected = greedy(llm, "Once upon a time", 8)
    stream = llm.create_completion("Once upon a time", max_tokens=8, temperature=0.0, stream=True)
    text, more = "", True
    while more:
        chunk = Caught(lambda: next(stream, None)).wait()
        more = chunk is not None
        text += chunk["choices"][0]["text"] if more else ""
    assert text == expected


def test_it_is_quiet_unless_asked(smollm2: Path) -> None:
    code = "import sys; from xquant_gguf import Llama; Llama(sys.argv[1], n_ctx=256, {})"
    quiet, loud = (run(code.format(more), smollm2) for more in ("kv='f16'", "verbose=True"))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert loud.stderr.count("\n") > 100


def test_every_inherited_method_is_behind_the_gate() -> None:
    """A newer llama_cpp may bring methods that touch the model."""
    import inspect

    import llama_cpp

    from xquant_gguf import Llama

    harmless = {
        "set_cache", "set_seed", "logits_to_logprobs", "longest_token_prefix", "from_pretrained",
        "create_completion", "create_chat_completion_openai_v1", "__call__", "__setstate__",
        "__del__",
    }  # fmt: skip
    for name, stock in inspect.getmembers(llama_cpp.Llama, inspect.isfunction):
        if getattr(Llama, name) is stock:
            assert name in harmless, f"Llama.{name} is inherited as it is"
    assert all(issubclass(e, XQuantError) for e in (ClosedError, CancelledError, SupersededError))


AT_EXIT = """
    import atexit, builtins, sys
    def look():
        print([llm._gate._freed for llm in builtins.kept])
        from xquant_gguf import _fork
        _fork.forked = None  # as when the interpreter takes modules apart
        for llm in builtins.kept: llm.__del__()
    atexit.register(look)  # runs last
    from xquant_gguf import Llama
    builtins.kept = [Llama(sys.argv[1], kv=kv, n_ctx=256) for kv in (sys.argv[2], "q8_0")]
    builtins.kept[0].close()
"""


@pytest.mark.parametrize("kv", PARTS)
def test_what_is_left_open_is_closed_before_the_interpreter_ends(
    smollm2: Path, packed_library: None, kv: str
) -> None:
    done = run(AT_EXIT, smollm2, kv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[True, True]\n", "")
