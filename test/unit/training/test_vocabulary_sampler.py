import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fisa_ros.core.class_names import parse_names
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary_file import read_entries
from fisa_ros.training.vocabulary_sampler import DISTRACTORS, VocabularySampler, overlapping_categories

NAMES = {
    3: ['floor', 'ground'],
    7: ['chair', 'seat', 'stool'],
    9: ['ball'],
    12: ['lamp'],
    20: ['box', 'crate'],
    21: ['cup'],
}
IGNORED = -100


class WordEncoder:
    """Gives every sentence a direction of its own."""

    def encode(self, sentences):
        rows = [np.random.default_rng(list(sentence.encode())).normal(size=64) for sentence in sentences]
        return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


@pytest.fixture
def sampler():
    return VocabularySampler(WordEncoder(), ['{}'], 8, NAMES, [3, 7, 9, 20, 21])


def test_the_full_vocabulary_names_every_category_by_its_first_name(sampler):
    full = sampler.full()
    assert full.category_ids == (3, 7, 9, 12, 20, 21)
    expected = WordEncoder().encode([words[0] for words in NAMES.values()])
    torch.testing.assert_close(full.text_embeddings[:, 0], expected)
    assert full.synonym_mask.shape == (6, 1)
    assert full.tokens_are_classes
    assert full.token_mask.tolist() == [True] * 6 + [False] * 2
    torch.testing.assert_close(full.semantic_tokens[:6], expected)


def test_drawn_vocabularies_never_name_other_categories_and_vary(sampler):
    draws = [sampler.draw(np.random.default_rng(seed)) for seed in range(60)]
    lamp = WordEncoder().encode(['lamp'])[0]
    for vocabulary in draws:
        assert 12 not in vocabulary.category_ids
        assert float((vocabulary.text_embeddings @ lamp).max()) < 0.8
        assert len(vocabulary.text_embeddings) >= len(vocabulary.category_ids)
        lengths = vocabulary.text_embeddings.norm(dim=-1)
        torch.testing.assert_close(lengths, vocabulary.synonym_mask.float(), atol=1e-5, rtol=0)
        assert vocabulary.tokens_are_classes == (len(vocabulary.text_embeddings) <= 8)
    assert len({len(vocabulary.text_embeddings) for vocabulary in draws}) > 5
    assert any(vocabulary.synonym_mask.sum(1).max() == 3 for vocabulary in draws)
    again = sampler.draw(np.random.default_rng(3))
    assert torch.equal(again.text_embeddings, draws[3].text_embeddings)


def test_rows_of_categories(sampler):
    vocabulary = next(
        drawn
        for drawn in (sampler.draw(np.random.default_rng(seed)) for seed in range(100))
        if 7 not in drawn.category_ids or len(drawn.category_ids) == 5
    )
    void = len(vocabulary.text_embeddings)
    categories = torch.tensor([[0, 3, 12], [IGNORED, 7, 9]])
    rows = vocabulary.rows_of(categories, (0, 3, 7, 9, 20, 21), IGNORED)
    for category, row in zip(categories.flatten().tolist(), rows.flatten().tolist(), strict=True):
        if category in vocabulary.category_ids:
            assert vocabulary.category_ids[row] == category
        elif category in (IGNORED, 12):
            assert row == IGNORED
        else:
            assert row == void


def test_what_a_longer_name_ends_with_is_no_distractor():
    class Recorder(WordEncoder):
        seen = ()

        def encode(self, sentences):
            self.seen = (*self.seen, *sentences)
            return super().encode(sentences)

    encoder = Recorder()
    # In the wide letters of Japanese keyboards.
    truck = ''.join(chr(ord(letter) + 0xFEE0) for letter in 'truck')
    names = {1: ['Cell Phone'], 2: ['car'], 3: ['hotdog', 'cow bell'], 4: [f'fire\u3000{truck}']}
    VocabularySampler(encoder, ['{}'], 8, names, [1, 2, 3, 4])
    assert set(DISTRACTORS) - set(encoder.seen) == {'phone', 'truck'}
    assert encoder.seen.count('car') == 1
    assert encoder.seen.count('dog') == encoder.seen.count('cow') == 1


def test_overlapping_categories_of_coco():
    path = share_dir() / 'config' / 'vocabularies' / 'coco-133.yaml'
    names = dict(enumerate(parse_names(entry['text']) for entry in read_entries(path)))
    found = {
        frozenset((names[one][0], names[other][0]))
        for one in names
        for other in frozenset().union(*overlapping_categories(names)[one])
    }
    assert found == {
        frozenset(pair)
        for pair in (
            ('traffic light', 'light'), ('dog', 'hot dog'), ('bear', 'teddy bear'), ('bowl', 'toilet'),
            ('orange', 'fruit'), ('dining table', 'table'), ('microwave', 'oven'), ('wood floor', 'floor'),
            ('gravel', 'rock'), ('river', 'water'), ('sea', 'water'), ('brick wall', 'wall'), ('stone wall', 'wall'),
            ('tiled wall', 'wall'), ('wood wall', 'wall'),
        )
    }  # fmt: skip


def test_what_a_word_of_the_vocabulary_may_mean_is_not_void():
    names = {1: ['wall'], 2: ['Brick  Wall', 'bricks'], 3: ['stone wall'], 4: ['drywall'], 5: ['Bricks', 'blocks']}
    names |= dict(enumerate(([word] for word in ('lamp', 'cup', 'box', 'ball', 'jar', 'pen', 'key', 'hat', 'pot')), 6))
    encoder = WordEncoder()
    sampler = VocabularySampler(encoder, ['{}'], 8, names, list(names))
    words = [(category, word) for category, its in names.items() for word in its]
    directions = encoder.encode([word for _, word in words])
    by_name = {1: [{2, 3}], 2: [{1}, {5}], 3: [{1}], 5: [{2}, set()]}
    assert overlapping_categories(names) == {category: by_name.get(category, [set()]) for category in names}
    ids = torch.tensor(list(names))
    seen = set()
    for seed in range(60):
        vocabulary = sampler.draw(np.random.default_rng(seed))
        # Noise moves a name by less than another one is away.
        nearest = (vocabulary.text_embeddings[: len(vocabulary.category_ids)] @ directions.T).argmax(-1)
        drawn = {words[int(index)] for index in nearest[vocabulary.synonym_mask[: len(vocabulary.category_ids)]]}
        meant = set().union(*(by_name[one][names[one].index(word)] for one, word in drawn if one in by_name))
        rows = dict(zip(ids.tolist(), vocabulary.rows_of(ids, sampler.tuned, IGNORED).tolist(), strict=True))
        for category, row in rows.items():
            if category in vocabulary.category_ids:
                assert vocabulary.category_ids[row] == category
            else:
                is_ambiguous = category in meant
                assert row == (IGNORED if is_ambiguous else len(vocabulary.text_embeddings))
                seen.add((category, is_ambiguous))
    # Without "brick wall", "bricks" alone do not mean a wall.
    assert {(2, True), (2, False), (4, False), (1, True), (1, False), (5, True), (5, False)} <= seen


def test_distractors_are_no_names_of_rooms():
    assert len(set(DISTRACTORS)) == len(DISTRACTORS)
