"""From prompts to tokens: the model's own chat template, and where an answer begins."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UnsupportedModelError
from .contexts import Model


@dataclass(frozen=True)
class Answered:
    """Tokens of a prompt with an answer behind it.

    Attributes:
        tokens: all of them. first: index of the answer's first token, 1 or more.
    """

    tokens: list[int]
    first: int


def chat_prompt(model: Model, user: str, reply: str) -> str:
    """One user message in the model's chat template, and the start of the assistant's reply.

    A model without a template gets the message as plain text.

    Raises:
        UnsupportedModelError: the template cannot render a single user message.
    """
    template = model.api.llama_model_chat_template(model.handle, None)
    if not template:
        return f"{user}\n\n{reply}"
    from jinja2 import TemplateError
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    bos, eos = (_special(model, name) for name in ("bos", "eos"))
    try:
        render = Jinja2ChatFormatter(template.decode(), eos_token=eos, bos_token=bos)
        rendered: str = render(messages=[{"role": "user", "content": user}]).prompt
    except (TemplateError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            "the model's chat template must take one user message", str(error)
        ) from error
    if model.api.llama_vocab_get_add_bos(model.vocab):
        rendered = rendered.removeprefix(bos)  # the tokeniser puts it there
    return rendered + reply


def answered(model: Model, prompt: str, answer: str, *, bos: bool) -> Answered:
    """Tokens of ``prompt + answer``, tokenised together as a model meets them.

    Where the last token of the prompt alone differs from the one in the whole
    text, that token counts as the answer's.

    Args:
        bos: begin with the model's leading token, if it wants one.
    """
    alone = model.tokenize(prompt, bos=bos)
    whole = model.tokenize(prompt + answer, bos=bos)
    same = 0
    while same < min(len(alone), len(whole) - 1) and alone[same] == whole[same]:
        same += 1
    return Answered(whole, max(1, same))


def _special(model: Model, name: str) -> str:
    token = getattr(model.api, f"llama_vocab_{name}")(model.vocab)
    if token < 0:
        return ""
    text: bytes = model.api.llama_vocab_get_text(model.vocab, token)
    return text.decode("utf-8", "replace")
