"""Text to fill a cache with: the same on every machine, varied, and plain words to the model."""

from __future__ import annotations

import random

_WORDS = """
the a this every some old new small bright quiet heavy narrow river harbour bridge garden mountain
village market kitchen window letter engine teacher sailor painter doctor farmer child horse bird
fish stone bread water summer winter morning evening music colour number story answer question
carries builds repairs follows remembers forgets paints sells finds loses opens closes crosses
watches measures writes slowly often never again before after under behind between without against
because although while until and but or with from into over through near
"""


def make_text(words: int, *, seed: int = 1) -> str:
    """Sentences of pseudo-random English words, now and then a number, ``words`` long in all."""
    source, known = random.Random(seed), _WORDS.split()
    out: list[str] = []
    left_in_sentence = 0
    for i in range(words):
        plain = source.random() > 0.05
        word = source.choice(known) if plain else str(source.randrange(2000))
        if left_in_sentence == 0:
            left_in_sentence = source.randrange(5, 20)
            word = word.capitalize()
        left_in_sentence -= 1
        last = left_in_sentence == 0 or i == words - 1
        out.append(word + "." if last else word)
    return " ".join(out)
