"""The program: read the command line, load the model, answer once or chat."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from .._demo import demo_path
from ..errors import ConfigError, XQuantError, unexpected
from ..gguf_header import read_header
from . import figures, model, template
from .arguments import Options, parse
from .budget import within
from .conversation import Conversation
from .opening import Opener, context, kv_text
from .repl import chat_loop, plain_reader, terminal_reader
from .screen import Screen, clean
from .session_file import Fingerprint
from .state import Chat
from .turn import take_turn


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chat program.

    Args:
        argv: arguments after the program name, ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C. A failure
        prints one line on standard error.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    warnings.filterwarnings("ignore", module="llama_cpp")
    warnings.filterwarnings("ignore", message="the model's chat template")  # a note says it
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except XQuantError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _fail(unexpected(error), 1)


def _run(options: Options) -> int:
    path = demo_path() if options.demo else options.model
    info = read_header(path) if path else None
    options = within(options, path) if path else options
    n_ctx = context(options, path, info)
    if options.show_config:
        print(figures.as_text(figures.config_rows(options.kv_name, options.kv, info, n_ctx)))
        return 0
    assert path is not None and info is not None and n_ctx is not None
    prompt = _one_prompt(options)
    screen = Screen(notes_on_stderr=prompt is not None)
    screen.fold_thoughts = options.fold_thoughts
    opener = Opener(options, path, n_ctx)
    chat = Chat(
        llm=opener.load(),
        model=Fingerprint.of(path),
        conversation=Conversation(options.system),
        sampling=options.sampling,
        kv_text=kv_text(options.kv),
        open_model=opener.again,
    )
    if info.n_ctx_train and n_ctx > info.n_ctx_train:
        screen.note(
            f"[--ctx {n_ctx} is longer than the {info.n_ctx_train} tokens this model was made for]"
        )
    for note in (
        template.note(chat.llm, opener.template),
        model.gpu_note(options.gpu_layers),
        figures.larger_than_f16(chat.llm.kv_cache.snapshot()),
    ):
        if note:
            screen.note(note)
    if prompt is not None:
        return _answer_once(chat, prompt, screen)
    screen.note(figures.greeting(chat.model.name, chat.llm.kv_cache.snapshot()))
    screen.note("/help lists commands, Alt-Enter starts a new line, Ctrl-D leaves")
    chat_loop(chat, screen, terminal_reader() if screen.interactive else plain_reader())
    return 0


def _answer_once(chat: Chat, prompt: str, screen: Screen) -> int:
    from .reply import End

    reply, _ = take_turn(chat, prompt, screen, status=sys.stderr.isatty())
    if reply is None:
        return 1
    return 130 if reply.end is End.INTERRUPTED else 0


def _one_prompt(options: Options) -> str | None:
    """The single prompt of a script, from --prompt or a pipe; None for a chat."""
    prompt = options.prompt
    if prompt == "-" or (prompt is None and not (sys.stdin and sys.stdin.isatty())):
        data = sys.stdin.buffer.read() if sys.stdin else b""
        prompt = data.decode("utf-8", "replace")
    if prompt is not None and not prompt.strip():
        raise ConfigError(
            "a prompt must have text in it", "an empty one", "give --prompt TEXT or pipe text in"
        )
    return prompt.strip() if prompt is not None else None


def _fail(text: str, code: int) -> int:
    line = " ".join(clean(text).split())
    print(f"error: {line}", file=sys.stderr)
    return code
