"""Speculative decoding gives plain decoding's codes when greedy, and its distribution of images when sampled."""

import itertools

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper

import transformers_wallaroo
from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor, speculative_wallaroo
from transformers_wallaroo.decoding_wallaroo import TO_DRAW, ImagePlan
from transformers_wallaroo.speculative_wallaroo import couple, decode_speculatively, neighbours

from drawing import TASKS, Recorder, prepare, run

VOCABULARY, GRID = 3, (2, 2)
NUM_IMAGES = 30_000


class TableDecoder:
    """A model of a few codes that is known by heart: the logits after each sequence of codes.

    Like the real one it remembers what it was fed by its number, until that number is fed again.
    """

    def __init__(self, num_images, row_ends=False):
        self.plan = ImagePlan((GRID,) * num_images, row_ends)
        table = torch.Generator().manual_seed(5)
        length = GRID[0] * GRID[1]
        self.tables = [1.5 * torch.randn(VOCABULARY**k, VOCABULARY, generator=table) for k in range(length + 4)]
        self.memory = torch.zeros(num_images, length + 4, dtype=torch.long)

    def start(self):
        return self.tables[0].expand(len(self.memory), -1).clone()

    def look_ahead(self, images, codes, first):
        memory = self.memory[images]
        numbers = first[:, None] + torch.arange(codes.shape[1])
        self.memory[images] = memory = memory.scatter(1, numbers.clamp(max=memory.shape[1] - 1), codes)
        logits = torch.zeros(*codes.shape, VOCABULARY)
        for row, number in itertools.product(range(codes.shape[1]), range(len(self.tables) - 1)):
            here = (numbers[:, row] == number).nonzero().flatten()
            powers = VOCABULARY ** torch.arange(number + 1)
            logits[here, row] = self.tables[number + 1][(memory[here, : number + 1] * powers).sum(dim=1)]
        return logits

    def probabilities(self, warp):
        """Of each image, in the order of `itertools.product`."""
        found = []
        for codes in itertools.product(range(VOCABULARY), repeat=GRID[0] * GRID[1]):
            chance = 1.0
            for number, code in enumerate(codes):
                index = sum(other * VOCABULARY**place for place, other in enumerate(codes[:number]))
                scores = warp(torch.zeros(1, 0).long(), self.tables[number][index][None].clone())
                chance *= float(scores.softmax(-1)[0, code])
            found.append(chance)
        return torch.tensor(found)


def chi_square(window, warp=()):
    """How far the frequencies of 30 000 images are from their probabilities; about 80 +- 13 where they agree."""
    warp = LogitsProcessorList(warp)
    decoder = TableDecoder(NUM_IMAGES)
    generators = [torch.Generator().manual_seed(seed) for seed in range(NUM_IMAGES)]
    codes, forwards = decode_speculatively(decoder, decoder.start(), warp, generators, window, lambda *_: None)
    assert codes.shape == (NUM_IMAGES, 4)
    assert forwards.min() >= 2
    assert forwards.max() <= 4
    powers = VOCABULARY ** torch.arange(3, -1, -1)
    seen = (codes * powers).sum(dim=1).bincount(minlength=VOCABULARY**4)
    expected = NUM_IMAGES * decoder.probabilities(warp)
    return float(((seen - expected) ** 2 / expected).sum())


# 80 degrees of freedom: two right runs in a million are above.
ALLOWED = 153.0


@pytest.mark.parametrize("window", [1, 2, 16])
def test_the_distribution_of_images_is_that_of_plain_decoding(window):
    """Seen: 72, 57 and 71."""
    assert chi_square(window) < ALLOWED


def test_the_distribution_of_images_with_a_temperature():
    assert chi_square(3, [TemperatureLogitsWarper(1.7)]) < ALLOWED


@pytest.mark.parametrize("places", [{1: 2}, {0: 1, 2: 0}, {3: 1}])
def test_the_distribution_beside_codes_that_are_given(places):
    """Frequencies of the codes that are drawn, given the others."""
    decoder = TableDecoder(NUM_IMAGES)
    given = torch.full((NUM_IMAGES, 4), TO_DRAW)
    for place, code in places.items():
        given[:, place] = code
    decoder.plan = ImagePlan(decoder.plan.grids, False, given)
    generators = [torch.Generator().manual_seed(seed) for seed in range(NUM_IMAGES)]
    codes, _ = decode_speculatively(decoder, decoder.start(), LogitsProcessorList(), generators, 2, lambda *_: None)
    chance = torch.ones(VOCABULARY**4)
    for index, image in enumerate(itertools.product(range(VOCABULARY), repeat=4)):
        for number, code in enumerate(image):
            before = sum(other * VOCABULARY**place for place, other in enumerate(image[:number]))
            scores = decoder.tables[number][before]
            chance[index] *= scores.softmax(-1)[code] if number not in places else float(code == places[number])
    assert abs(float(chance.sum()) - 1) < 1e-5
    powers = VOCABULARY ** torch.arange(3, -1, -1)
    seen = (codes * powers).sum(dim=1).bincount(minlength=VOCABULARY**4)
    assert seen[chance == 0].sum() == 0
    expected = NUM_IMAGES * chance[chance > 0]
    degrees = len(expected) - 1
    assert float(((seen[chance > 0] - expected) ** 2 / expected).sum()) < degrees + 7 * (2 * degrees) ** 0.5


def _accepting_too_much(guesses, guessed, wanted, generators):
    drawn, stays = couple(guesses, guessed, wanted, generators)
    more = stays | (torch.rand(stays.shape, generator=generators[0]) < 0.1)
    return torch.cat([torch.where(more, guesses, drawn[:, :-1]), drawn[:, -1:]], dim=1), more


def _not_taking_the_guess_away(guesses, guessed, wanted, generators):
    drawn, stays = couple(guesses, guessed, wanted, generators)
    fresh = speculative_wallaroo.draw(wanted, generators)
    return torch.cat([torch.where(stays, guesses, fresh[:, :-1]), drawn[:, -1:]], dim=1), stays


def _forgetting_where_guesses_came_from(guesses, guessed, wanted, generators):
    return couple(guesses, torch.full_like(guessed, 1 / VOCABULARY), wanted, generators)


@pytest.mark.parametrize(
    "wrong", [_accepting_too_much, _not_taking_the_guess_away, _forgetting_where_guesses_came_from]
)
def test_the_test_of_the_distribution_sees_what_is_wrong(monkeypatch, wrong):
    """Seen: 5 500 and more."""
    monkeypatch.setattr(speculative_wallaroo, "couple", wrong)
    assert chi_square(2) > 10 * ALLOWED


def test_couple_is_a_draw_and_the_likeliest_to_stay():
    """From q to p with a total variation of 0.3: 70 % stay, within four standard errors."""
    count = 20_000
    guessed, wanted = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    guesses = speculative_wallaroo.draw(guessed.expand(count, 1, -1), generators)
    both = wanted.expand(count, 2, -1)
    drawn, stays = couple(guesses, guessed.expand(count, 1, -1), both, generators)
    for place in range(2):
        observed = drawn[:, place].bincount(minlength=3) / count
        assert ((observed - wanted).abs() <= 4 * (wanted * (1 - wanted) / count).sqrt()).all()
    assert abs(float(stays.float().mean()) - 0.7) <= 4 * (0.21 / count) ** 0.5
    assert torch.equal(stays[:, 0], drawn[:, 0] == guesses[:, 0])


def test_couple_stands_by_what_is_wanted_where_rounding_leaves_nothing(monkeypatch):
    """A guess that goes though `wanted` is what it was drawn from: its successor is drawn from `wanted`."""
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.ones(size))
    wanted = torch.tensor([0.0, 0.0, 1.0]).expand(1, 2, 3)
    generators = [torch.Generator().manual_seed(0)]
    drawn, stays = couple(torch.tensor([[2]]), wanted[:, :1], wanted, generators)
    assert drawn.tolist() == [[2, 2]] and stays.tolist() == [[False]]


def test_neighbours():
    """Rows of three, five codes known: the code above, and the last known one where that is not known or not there."""
    codes = torch.tensor([[1, 2, 3, 4, 5, 0, 0, 0, 0]])
    places = torch.tensor([[5, 6, 7, 8]])
    assert neighbours(codes, places, torch.tensor([3]), torch.tensor([5])).tolist() == [[3, 4, 5, 5]]
    assert neighbours(codes, places[:, :2] - 4, torch.tensor([3]), torch.tensor([1])).tolist() == [[1, 1]]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_greedy_codes_are_those_of_plain_decoding(model, processor, task, guidance_scale, window):
    """Of sizes that differ, with row ends within the window and images that leave the batch."""
    inputs = prepare(processor, task, [0, 1, 2])
    plain = run(model, inputs, guidance_scale=guidance_scale, do_sample=False, decoder="plain")
    kwargs = {"guidance_scale": guidance_scale, "do_sample": False, "return_dict_in_generate": True}
    fast = model.generate(**inputs, **kwargs, speculative_window=window)
    assert torch.equal(fast.sequences, plain.sequences)
    assert (fast.num_forwards <= plain.num_forwards).all()


@pytest.fixture(scope="module")
def tiny():
    path = transformers_wallaroo.tiny_path()
    model = WallarooForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    return model, WallarooProcessor.from_pretrained(path)


@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"seed": 3}])
def test_a_trained_model_needs_less_than_half_of_the_forwards(tiny, sampling):
    model, processor = tiny
    prompts = ["two red squares", "a blue circle", "画一个黄色的三角形", "a green star on a black background"]
    inputs = processor(text=prompts, task="generate", height=64, width=64, return_tensors="pt")
    out = model.generate(**inputs, **sampling, speculative_window=16, return_dict_in_generate=True)
    assert model.generate(**inputs, **sampling, return_dict_in_generate=True).num_forwards.tolist() == [16] * 4
    assert out.num_forwards.float().mean() <= 8


def test_an_image_does_not_depend_on_its_neighbours(model, processor):
    kwargs = {"speculative_window": 4, "return_dict_in_generate": True}
    together = model.generate(**prepare(processor, "generate", [0, 1, 2]), seed=[3, 4, 5], **kwargs)
    for index in range(3):
        alone = model.generate(**prepare(processor, "generate", [index]), seed=3 + index, **kwargs)
        assert torch.equal(alone.codes[0], together.codes[index])
        assert alone.num_forwards[0] == together.num_forwards[index]


def test_without_row_ends(model, processor):
    inputs = processor(text="a cat", task="generate", height=48, width=48, return_tensors="pt")
    kwargs = {"row_ends": False, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **kwargs, speculative_window=5), model.generate(**inputs, **kwargs))


def test_a_streamer_gets_all_codes_in_order(model, processor):
    recorder = Recorder()
    inputs = prepare(processor, "generate", [0])
    sequence = model.generate(**inputs, streamer=recorder, seed=1, speculative_window=4)
    assert torch.cat(recorder.values[1:]).tolist() == sequence[0].tolist()
    assert recorder.ended


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"speculative_window": 0}, "`speculative_window` must be a positive int, such as 16, but got 0"),
        ({"speculative_window": 4, "output_logits": True}, "`output_logits` does not go with `speculative_window`"),
        ({"speculative_window": 4, "repetition_penalty": 1.2}, "a RepetitionPenaltyLogitsProcessor, which may look at"),
        (
            {"speculative_window": 4, "decoder": "plain"},
            "`speculative_window` needs the lean decode step, but the `decoder` is plain",
        ),
        (
            {"speculative_window": 4, "decoder": "compiled"},
            "`speculative_window` does not go with `decoder` 'compiled'",
        ),
        ({"speculative_window": 4, "use_cache": False}, "needs the lean decode step, but the call asks for a cache"),
    ],
)
def test_bad_input(model, processor, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**prepare(processor, "generate", [0]), **kwargs)


def test_not_for_text(model, processor):
    with pytest.raises(ValueError, match="`speculative_window` is for images"):
        model.generate(**processor(text="Hi", return_tensors="pt"), speculative_window=4)
