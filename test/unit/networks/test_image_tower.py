import pytest
import torch
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.build import tiny_tower
from fisa_ros.networks.image_tower import SemanticEncoding
from fisa_ros.networks.mask_coverage import area_matrix

DIM = 32


def small_tower(**overrides):
    torch.manual_seed(0)
    arguments = dict(
        image_size=64, text_dim=DIM, width=48, layers=3, heads=4, stem_channels=(16, 24, 32), stem_blocks=(1, 1, 1),
        seve_blocks=2, seve_width=16,
    )  # fmt: skip
    return tiny_tower(**{**arguments, **overrides}).eval()


def words(count=5, padded=8):
    tokens = torch.zeros(padded, DIM)
    tokens[:count] = F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    return tokens, torch.arange(padded) < count


def open_gates(tower):
    with torch.no_grad():
        for block in tower.seve:
            block.gate.fill_(0.8)
    return tower


def test_an_opened_gate_gives_each_image_token_words_of_its_own():
    torch.manual_seed(0)
    seve = SemanticEncoding(64, 384, 32, 4)
    with torch.no_grad():
        seve.gate.fill_(10.0)
        words = F.normalize(torch.randn(32, 384), dim=-1)
        added = seve(torch.randn(1, 100, 64), words, torch.zeros(1, 1, 32))
    assert added.std(1).mean() > 0.1 * added.std()


def test_image_stream_is_bit_for_bit_that_of_clip_while_gates_are_closed():
    tower = small_tower()
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words()
    x = tower.visual.transformer(tower.visual._embeds((image - tower.mean) / tower.std))
    encoded = tower.encode(image, torch.randn(1, 3, 16, 16), tokens, mask)
    assert torch.equal(encoded.image_tokens, tower.visual.ln_post(x)[:, 1:])
    assert encoded.image_tokens.shape == (1, 16, 48)


def test_image_stream_sees_words_but_never_masks():
    tower = open_gates(small_tower())
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words()
    first = tower.encode(image, torch.randn(1, 3, 16, 16), tokens, mask)
    second = tower.encode(image, torch.randn(1, 5, 16, 16), tokens, mask)
    assert torch.equal(first.image_tokens, second.image_tokens)
    assert not torch.allclose(first.mask_embeddings, second.mask_embeddings[:, :3], atol=1e-3)
    other = tower.encode(image, torch.randn(1, 3, 16, 16), -tokens, mask)
    assert not torch.allclose(first.image_tokens, other.image_tokens, atol=1e-3)


def test_mask_embeddings_carry_no_gradient_into_image_tokens_of_other_masks():
    tower = open_gates(small_tower())
    logits = torch.randn(1, 3, 16, 16, requires_grad=True)
    encoded = tower.encode(torch.rand(1, 3, 64, 64), logits, *words())
    gradient = torch.autograd.grad(encoded.mask_embeddings[0, 1].sum(), logits, retain_graph=True)[0]
    assert gradient[0, 1].abs().max() > 0
    assert gradient[0, [0, 2]].abs().max() == 0
    # The image stream is no function of the masks at all.
    assert torch.autograd.grad(encoded.image_tokens.sum(), logits, allow_unused=True)[0] is None


@torch.inference_mode()
def test_permuting_masks_permutes_embeddings_and_permuting_or_padding_words_changes_nothing():
    tower = open_gates(small_tower())
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words(5, 8)
    logits = 10 * torch.randn(1, 4, 16, 16)
    expected = tower(image, logits, tokens, mask)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(tower(image, logits[:, order], tokens, mask), expected[:, order], atol=1e-6, rtol=0)
    shuffled = torch.tensor([3, 7, 1, 0, 5, 4, 2, 6])
    torch.testing.assert_close(tower(image, logits, tokens[shuffled], mask[shuffled]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(tower(image, logits, *words(5, 20)), expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_mask_token_sees_only_what_its_mask_covers():
    tower = small_tower()
    # One block: deeper ones spread the image over all tokens.
    tower.visual.transformer.resblocks = tower.visual.transformer.resblocks[:1]
    tower.visual.conv1 = torch.nn.Conv2d(3, 48, 16, 16)
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words()
    logits = torch.full((1, 2, 16, 16), -20.0)
    logits[0, 0, :, :8], logits[0, 1, :, 8:] = 20.0, 20.0
    before = tower(image, logits, tokens, mask)
    image[..., 32:] = 1 - image[..., 32:]
    after = tower(image, logits, tokens, mask)
    torch.testing.assert_close(after[0, 0], before[0, 0], atol=1e-6, rtol=0)
    assert (after[0, 1] - before[0, 1]).abs().max() > 1e-3


@torch.inference_mode()
def test_words_may_differ_between_the_images_of_a_batch():
    tower = open_gates(small_tower())
    image, logits = torch.rand(2, 3, 64, 64), torch.randn(2, 3, 16, 16)
    tokens, mask = words(5, 8)
    other = mask & (torch.arange(8) != 2)
    expected = torch.cat([tower(image[:1], logits[:1], tokens, mask), tower(image[1:], logits[1:], -tokens, other)])
    both = tower(image, logits, torch.stack([tokens, -tokens]), torch.stack([mask, other]))
    torch.testing.assert_close(both, expected, atol=1e-6, rtol=0)
    shared = tower(image, logits, tokens, torch.stack([mask, other]))
    torch.testing.assert_close(shared[:1], expected[:1], atol=1e-6, rtol=0)
    torch.testing.assert_close(shared[1:], tower(image[1:], logits[1:], tokens, other), atol=1e-6, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_empty_masks_and_no_words_stay_finite(precision):
    tower = open_gates(small_tower())
    image, empty = torch.rand(2, 3, 64, 64), torch.full((2, 3, 16, 16), -1e4)
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == torch.bfloat16):
        encoded = tower.encode(image, empty, torch.zeros(8, DIM), torch.zeros(8, dtype=torch.bool))
        pooled = [tower.pooled_embeddings(image, empty, dense) for dense in ('tokens', 'values')]
    assert encoded.image_tokens.isfinite().all()
    for embeddings in (encoded.mask_embeddings, *pooled):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 3))


@torch.inference_mode()
def test_hidden_words_are_unknown_even_when_all_are_hidden():
    tower = open_gates(small_tower())
    image, logits, (tokens, mask) = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 16, 16), words(8, 8)
    nothing = torch.zeros_like(mask)
    assert torch.equal(tower(image, logits, tokens, nothing), tower(image, logits, -tokens, nothing))


@torch.inference_mode()
def test_without_tuned_queries_mask_tokens_use_those_of_clip():
    tuned, plain = small_tower(), small_tower(tuned_queries=False)
    plain.load_state_dict({name: tensor for name, tensor in tuned.state_dict().items() if 'mask_queries' not in name})
    inputs = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 16, 16), *words()
    torch.testing.assert_close(plain(*inputs), tuned(*inputs), atol=1e-6, rtol=0)
    assert not [name for name, _ in plain.named_parameters() if name.startswith('mask_queries')]


@torch.inference_mode()
def test_without_seve_words_change_nothing():
    tower = small_tower(seve_blocks=0)
    assert not [name for name, _ in tower.named_parameters() if name.startswith('seve')]
    image, logits, (tokens, mask) = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 16, 16), words()
    assert torch.equal(tower(image, logits, tokens, mask), tower(image, logits, -tokens, mask))


@torch.inference_mode()
def test_plain_clip_has_no_seve():
    tower = open_gates(small_tower())
    image = torch.rand(2, 3, 64, 64)
    expected = F.normalize(tower.visual((image - tower.mean) / tower.std), dim=-1)
    torch.testing.assert_close(tower.image_embedding(image), expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_pooled_tokens_are_averages_under_the_mask():
    tower = open_gates(small_tower())
    image = torch.rand(1, 3, 64, 64)
    x = tower.visual.transformer(tower.visual._embeds((image - tower.mean) / tower.std))
    patches = (tower.visual.ln_post(x)[0, 1:] @ tower.visual.proj).view(4, 4, DIM)
    logits = torch.full((1, 3, 16, 16), -20.0)
    logits[0, 0, :4, :4] = 20.0
    logits[0, 1, :4, :6] = 20.0
    pooled = tower.pooled_embeddings(image, logits)
    # The second mask covers half of the second patch; the third is empty.
    expected = [patches[0, 0], patches[0, 0] + 0.5 * patches[0, 1], patches.mean((0, 1))]
    torch.testing.assert_close(pooled[0], F.normalize(torch.stack(expected), dim=-1), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_pooled_values_of_one_block_stay_in_their_place():
    tower = small_tower(layers=1, seve_blocks=0)
    tower.visual.conv1 = torch.nn.Conv2d(3, 48, 16, 16)
    image, left = torch.rand(1, 3, 64, 64), torch.full((1, 1, 16, 16), -20.0)
    left[..., :8] = 20.0
    changed = image.clone()
    changed[..., 32:] = 1 - image[..., 32:]
    distance = {
        dense: (tower.pooled_embeddings(image, left, dense) - tower.pooled_embeddings(changed, left, dense)).abs().max()
        for dense in ('tokens', 'values')
    }
    assert distance['values'] < 1e-5
    assert distance['tokens'] > 1e-4


@torch.inference_mode()
def test_value_path_equals_attention_to_oneself():
    tower = small_tower()
    image, everywhere = torch.rand(1, 3, 64, 64), torch.full((1, 1, 16, 16), 30.0)
    block = tower.blocks[-1]
    x = tower.visual._embeds((image - tower.mean) / tower.std)
    for earlier in tower.blocks[:-1]:
        x = earlier(x)
    alone = torch.full((17, 17), -1e4).fill_diagonal_(0)
    tokens = tower.visual.ln_post(block(x, attn_mask=alone))[:, 1:] @ tower.visual.proj
    expected = F.normalize(tokens.mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(tower.pooled_embeddings(image, everywhere, 'values'), expected, atol=1e-5, rtol=0)


def test_frozen_batch_norms_keep_their_statistics():
    tower = small_tower().train()
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert all(norm.training for norm in norms)
    tower.visual.conv1.requires_grad_(False)
    tower.train()
    assert tower.visual.transformer.training
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize(
    ('overrides', 'text'),
    [
        ({'seve_blocks': 4}, r'seve_blocks must be 0\.\.3, got 4'),
        ({'seve_blocks': -1}, r'seve_blocks must be 0\.\.3, got -1'),
        ({'seve_width': 30}, 'seve_width must be a multiple of seve_heads 4, got 30'),
        ({'image_size': 72}, r'multiple of its patch size \(16, 16\), got \(72, 72\)'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides, text):
    with pytest.raises(ManifestError, match=text):
        small_tower(**overrides)


@pytest.mark.parametrize(('size_in', 'size_out'), [(80, 20), (7, 7), (10, 4), (3, 5)])
def test_area_matrix_keeps_means(size_in, size_out):
    matrix = area_matrix(size_in, size_out)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size_out))
    values = torch.rand(size_in)
    torch.testing.assert_close((matrix @ values).mean(), values.mean())


def test_area_matrix_averages_neighbours():
    torch.testing.assert_close(area_matrix(4, 2) @ torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.tensor([2.0, 7.0]))
