import open_clip
import pytest
import torch
import torch.nn.functional as F

from fisa_ros.networks.build import tiny_tower
from fisa_ros.networks.image_tower import FisaImageTower, area_matrix, simo_parameters

DIM = 32


def small_tower():
    torch.manual_seed(0)
    return tiny_tower(
        image_size=64, text_dim=DIM, width=48, layers=3, heads=4, stem_channels=(16, 24, 32), stem_blocks=(1, 1, 1),
        seve_blocks=2, seve_width=16,
    ).eval()  # fmt: skip


def words(count=5, padded=8):
    tokens = torch.zeros(padded, DIM)
    tokens[:count] = F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    return tokens, torch.arange(padded) < count


def open_gates(tower):
    with torch.no_grad():
        for block in tower.seve:
            block.gate.fill_(0.8)
    return tower


@pytest.fixture(scope='module')
def clip_visual():
    torch.manual_seed(0)
    return open_clip.create_model('ViT-B-16', pretrained=None).visual.eval()


@pytest.mark.filterwarnings('ignore')
def test_fresh_fisa_equals_clip(clip_visual):
    tower = FisaImageTower(clip_visual, 512).eval()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    tokens, mask = torch.randn(32, 512), torch.ones(32, dtype=torch.bool)
    everywhere = torch.full((1, 2, 56, 56), 30.0)
    with torch.no_grad():
        embeddings = tower(image, everywhere, tokens, mask)
        expected = F.normalize(clip_visual((image - tower.mean) / tower.std), dim=-1)
    assert embeddings.shape == (1, 2, 512)
    torch.testing.assert_close(embeddings[:, 0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings[:, 1], expected, atol=1e-5, rtol=0)


def test_query_only_tuning_of_vit_b_16_has_the_known_number_of_parameters(clip_visual):
    tower = FisaImageTower(clip_visual, 512)
    assert sum(parameter.numel() for parameter in simo_parameters(tower, ('queries',))) == 7_087_104
    with pytest.raises(ValueError, match='SIMO sets must be among queries, seve, void, got keys'):
        simo_parameters(tower, ('keys',))


def image_stream(tower, image, logits, tokens, mask):
    """Return what the last block of CLIP is given."""
    seen = []
    handle = tower.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(image, logits, tokens, mask)
    handle.remove()
    return seen[0]


def test_image_stream_is_bit_for_bit_that_of_clip_while_gates_are_closed():
    tower = small_tower()
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words()
    x = tower.visual._embeds((image - tower.mean) / tower.std)
    for block in tower.blocks[:-1]:
        x = block(x)
    assert torch.equal(image_stream(tower, image, torch.randn(1, 3, 16, 16), tokens, mask), x)


def test_image_stream_sees_words_but_never_masks():
    tower = open_gates(small_tower())
    image, (tokens, mask) = torch.rand(1, 3, 64, 64), words()
    first = image_stream(tower, image, torch.randn(1, 3, 16, 16), tokens, mask)
    assert torch.equal(first, image_stream(tower, image, torch.randn(1, 5, 16, 16), tokens, mask))
    assert not torch.allclose(first, image_stream(tower, image, torch.randn(1, 3, 16, 16), -tokens, mask), atol=1e-4)


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
def test_empty_masks_and_no_words_stay_finite():
    embeddings = open_gates(small_tower())(
        torch.rand(2, 3, 64, 64),
        torch.full((2, 3, 16, 16), -1e4),
        torch.zeros(8, DIM),
        torch.zeros(8, dtype=torch.bool),
    )
    assert embeddings.isfinite().all()
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, 3))


@pytest.mark.parametrize(('size_in', 'size_out'), [(80, 20), (7, 7), (10, 4), (3, 5)])
def test_area_matrix_keeps_means(size_in, size_out):
    matrix = area_matrix(size_in, size_out)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size_out))
    values = torch.rand(size_in)
    torch.testing.assert_close((matrix @ values).mean(), values.mean())


def test_area_matrix_averages_neighbours():
    torch.testing.assert_close(area_matrix(4, 2) @ torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.tensor([2.0, 7.0]))
