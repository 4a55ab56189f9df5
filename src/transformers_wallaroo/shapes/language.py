# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How scenes, captions, questions and edit instructions are worded, in English and Chinese. Pure Python.

Phrasings have a space between any two words, in Chinese too, until `Language.join` writes them as people do. So the
list of words can be read off them (`words`), and a tokenizer trained on it has a token a word.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from . import phrases
from .asks import Ask, Look
from .world import BACKGROUNDS, COLORS, SHAPES, Scene

# How people end a question, and anything else.
ENDS: dict[str, dict[bool, tuple[str, ...]]] = {
    "en": {True: ("?", " ?", ""), False: ("", ".", " .", "!")},
    "zh": {True: ("？", "?", ""), False: ("", "。", "！")},
}


def as_typed(rng: random.Random, text: str, code: str) -> str:
    """A text as people type it: with a capital or without, with one end or another."""
    is_question = text.endswith(("?", "？"))
    plain = text.rstrip("?？")
    plain = plain[:1].upper() + plain[1:] if rng.random() < 0.5 else plain
    return plain + rng.choice(ENDS[code][is_question])


# Marks that stand close to the English word before them.
_CLOSE = re.compile(r" ([,.?:])")


@dataclass(frozen=True)
class Language:
    """The words of one language, as `phrases.py` has them; names are those of the world (`"red"`, `"top left"`).

    Attributes:
        code: `"en"` or `"zh"`.
        words: for each table (`"shape"`, `"color"`, ...) the words of each name.
        forms: how words make names of things, lists and backgrounds.
        phrases: the phrasings of each kind of text.
    """

    code: str
    words: dict[str, dict[str, str]]
    forms: dict[str, str]
    phrases: dict[str, tuple[str, ...]]

    def join(self, text: str) -> str:
        """The text as people write it."""
        return text.replace(" ", "") if self.code == "zh" else _CLOSE.sub(r"\1", text)

    def say(self, rng: random.Random, kind: str, **values: str) -> str:
        """A random phrasing of a kind, filled in; still with a space between all words."""
        return rng.choice(self.phrases[kind]).format(**values)

    def name(self, look: Look, *, many: bool = False) -> str:
        """Like "red circle" or "red circles"; without a shape "red shape"."""
        noun = self.words["shapes" if many else "shape"][look.shape or "any"]
        if look.color is None:
            return noun
        return self.forms["colored"].format(color=self.words["color"][look.color], noun=noun)

    def one(self, look: Look) -> str:
        """Like "a red circle"."""
        text = self.forms["one"].format(name=self.name(look))
        return re.sub(r"^a (?=[aeiou])", "an ", text)

    def the(self, look: Look) -> str:
        """Like "the red circle"."""
        return self.forms["the"].format(name=self.name(look))

    def beside(self, relation: str, other: Look) -> str:
        """Like "to the left of the red circle"."""
        return self.forms["beside"].format(relation=self.words["relation"][relation], other=self.the(other))

    def neighbor(self, relation: str, other: Look) -> str:
        """Like "one step to the left of the red circle"."""
        return self.forms["neighbor"].format(beside=self.beside(relation, other))

    def list(self, parts: Sequence[str]) -> str:
        """Like "a, b and c"."""
        if len(parts) == 1:
            return parts[0]
        return self.forms["and"].format(first=self.forms["comma"].join(parts[:-1]), last=parts[-1])

    def on(self, text: str, background: str) -> str:
        """Like "a red circle on a black background"."""
        return self.forms["on"].format(text=text, color=self.words["color"][background])

    def caption(self, rng: random.Random, ask: Ask) -> str:
        """A prompt for a picture, in a random phrasing."""
        looks = ask.looks
        if len(set(looks)) == 1 and len(looks) > 1:
            number = self.words["number"][str(len(looks))]
            names = [self.forms["count"].format(number=number, names=self.name(looks[0], many=True))]
        else:
            names = [self.one(look) for look in looks]
        values = dict(zip(("a", "b"), names, strict=False))
        kind = "one" if len(names) == 1 else "two"
        if ask.relation is not None:
            kind, values["relation"] = "relation", self.words["relation"][ask.relation]
        elif looks[0].place is not None:
            kind = "place" if len(names) == 1 else "two places"
            for field, look in zip(("place", "other_place"), looks, strict=False):
                values[field] = self.words["place"][look.place or ""]
        text = self.say(rng, kind, **values)
        if ask.background is not None:
            text = self.on(text, ask.background)
        return self.join(self.say(rng, "caption" if kind in ("one", "two") else "related caption", text=text))

    def describe(self, scene: Scene) -> str:
        """All things in raster order and the background: the answer to a question for a description."""
        parts = [self.one(Look(thing.shape, thing.color)) for thing in scene.things]
        return self.join(self.on(self.list(parts), scene.background))

    def grid(self, scene: Scene) -> str:
        """What each cell holds, row by row, and the background; still with a space between all words."""
        things = {(thing.row, thing.column): self.name(Look(thing.shape, thing.color)) for thing in scene.things}
        rows = [
            self.forms["cell"].join(things.get((row, column), self.forms["empty"]) for column in range(scene.columns))
            for row in range(scene.rows)
        ]
        return self.on(self.forms["row"].join(rows), scene.background)

    def parse_description(self, text: str) -> tuple[Counter[tuple[str, str]], str] | None:
        """(shape, colour) of the things with their numbers, and the background, of a text that `describe` would write
        but for the order of the things; `None` for any other text."""
        known = {self.join(self.one(Look(shape, color))): (shape, color) for shape in SHAPES for color in COLORS}
        comma, last = self.join(self.forms["comma"]), self.join(self.forms["and"].format(first="", last=""))
        for background in BACKGROUNDS:
            tail = self.join(self.on("", background))
            parts = [part for piece in text.removesuffix(tail).split(comma) for part in piece.split(last)]
            if text.endswith(tail) and all(part in known for part in parts):
                things = [known[part] for part in parts]
                if text == self.join(self.on(self.list([self.one(Look(*thing)) for thing in things]), background)):
                    return Counter(things), background
        return None


LANGUAGES: dict[str, Language] = {
    "en": Language("en", phrases.ENGLISH_WORDS, phrases.ENGLISH_FORMS, phrases.ENGLISH_PHRASES),
    "zh": Language("zh", phrases.CHINESE_WORDS, phrases.CHINESE_FORMS, phrases.CHINESE_PHRASES),
}


def get_language(code: str) -> Language:
    if code not in LANGUAGES:
        raise ValueError(f"`language` must be one of {', '.join(map(repr, LANGUAGES))}, but got {code!r}.")
    return LANGUAGES[code]


def words(language: str | None = None) -> list[str]:
    """Every word of the prompts and answers of a language, or of both, sorted; punctuation is in it as well."""
    found: set[str] = set()
    for spoken in LANGUAGES.values() if language is None else [get_language(language)]:
        texts = [word for table in spoken.words.values() for word in table.values()]
        texts += [*spoken.forms.values(), *(phrase for kind in spoken.phrases.values() for phrase in kind)]
        for text in texts:
            # What stands between the fields; a field is never part of a word.
            found.update(word for literal, *_ in Formatter().parse(text) for word in literal.split())
    return sorted(found | {"an"} if language != "zh" else found)


def corpus() -> list[str]:
    """Texts to train a tokenizer on, so that each word becomes one token and no token holds more than a word: each
    English word as it stands within a text (after a space) and at its start, each Chinese word alone."""
    return [text for word in words() for text in ((word, f" {word}") if word.isascii() else (word,))]
