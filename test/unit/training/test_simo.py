import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.networks.build import build_network
from fisa_ros.training.simo import DEFAULT_SIMO_SETS, SIMO_SETS, apply_simo, simo_parameters

GENERATOR = {
    'type': 'tiny', 'image_size': 32, 'num_queries': 4, 'channels': [8, 12, 16], 'blocks': [1, 1, 1], 'heads': 2,
}  # fmt: skip
CLASSIFIER = {
    'type': 'tiny', 'image_size': 32, 'text_dim': 16, 'width': 16, 'layers': 3, 'heads': 2,
    'stem_channels': [8, 12, 16], 'stem_blocks': [1, 1, 1], 'seve_blocks': 2, 'seve_width': 8, 'merge_size': 32,
}  # fmt: skip


def network(gate=0.5, **overrides):
    torch.manual_seed(0)
    built = build_network(GENERATOR, {**CLASSIFIER, **overrides})
    with torch.no_grad():
        for block in built.tower.seve:
            block.gate.fill_(gate)
        # Zero as they start, these cut the stem's inner convolutions off.
        for name, parameter in built.tower.visual.conv1.named_parameters():
            if name.endswith('norm2.weight'):
                parameter.fill_(1.0)
    return built


def backward(built):
    """Classify two masks of two images, of which one is void."""
    built.zero_grad()
    tokens, mask = torch.randn(6, 16), torch.arange(6) < 5
    embeddings = built.tower(torch.rand(2, 3, 32, 32), 3 * torch.randn(2, 2, 8, 8), tokens, mask)
    logits = built.head.class_logits(embeddings, torch.randn(5, 2, 16), torch.ones(5, 2) > 0)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor([0, 5, 2, 4])).backward()
    return {name for name, parameter in built.named_parameters() if parameter.grad is not None}


def named(built, *prefixes):
    return {name for name, _ in built.named_parameters() if name.startswith(prefixes)}


BLOCKS = 'tower.visual.transformer.resblocks.'
PREFIXES = {
    'queries': ('tower.mask_queries.',),
    'seve': ('tower.seve.',),
    'void': ('head.void_embedding',),
    'scale': ('head.logit_scale',),
    'projection': ('tower.visual.proj',),
    'norms': (
        'tower.visual.ln_pre.', 'tower.visual.ln_post.', *(f'{BLOCKS}{i}.ln_{n}.' for i in range(3) for n in (1, 2)),
    ),
    'blocks': (BLOCKS,),
    'stem': ('tower.visual.conv1.', 'tower.visual.class_embedding', 'tower.visual.positional_embedding'),
}  # fmt: skip


@pytest.mark.parametrize(
    'sets', [DEFAULT_SIMO_SETS, *((name,) for name in SIMO_SETS), ('norms', 'blocks'), SIMO_SETS, ()], ids=str
)
def test_gradients_reach_exactly_the_named_parameters(sets):
    built = network().train()
    trained = apply_simo(built, sets)
    expected = named(built, *(prefix for name in sets for prefix in PREFIXES[name])) if sets else set()
    of = {id(parameter): name for name, parameter in built.named_parameters()}
    assert {of[id(parameter)] for parameter in trained} == expected
    assert len(trained) == len(expected)
    assert {name for name, parameter in built.named_parameters() if parameter.requires_grad} == expected
    if sets:
        assert backward(built) == expected
        assert all(parameter.grad.abs().max() > 0 for parameter in trained)


def test_the_sets_together_are_all_of_tower_and_head():
    built = network()
    assert set(simo_parameters(built, SIMO_SETS)) == {*built.tower.parameters(), *built.head.parameters()}


def test_order_of_sets_does_not_matter():
    built = network()
    one, other = (simo_parameters(built, sets) for sets in (SIMO_SETS, SIMO_SETS[::-1]))
    assert [id(parameter) for parameter in one] == [id(parameter) for parameter in other]


def test_a_closed_gate_learns_first_and_the_rest_of_seve_once_it_is_open():
    built = network(gate=0.0)
    apply_simo(built, ('seve',))
    backward(built)
    for name, parameter in built.tower.seve.named_parameters():
        assert (parameter.grad.abs().max() > 0) == name.endswith('gate'), name


def test_frozen_batch_norms_stop_counting_at_once():
    built = network().train()
    apply_simo(built)
    before = {name: buffer.clone() for name, buffer in built.named_buffers()}
    backward(built)
    assert all(torch.equal(buffer, before[name]) for name, buffer in built.named_buffers())
    apply_simo(built, ('stem',))
    backward(built)
    assert not torch.equal(
        built.get_buffer('tower.visual.conv1.stem.entry.1.running_mean'),
        before['tower.visual.conv1.stem.entry.1.running_mean'],
    )


def test_what_a_network_lacks_adds_nothing():
    built = network(seve_blocks=0, tuned_queries=False)
    assert simo_parameters(built) == [built.head.void_embedding]


def test_unknown_sets_change_nothing():
    built = network()
    with pytest.raises(DataError, match=r'SIMO sets must be among queries, seve, .*, got keys, values'):
        apply_simo(built, ('queries', 'values', 'keys'))
    assert all(parameter.requires_grad for parameter in built.tower.parameters())


@pytest.mark.parametrize(
    ('model', 'image_size', 'count'), [('ViT-B-16', 224, 7_087_104), ('ViT-L-14-336', 336, 25_190_400)]
)
def test_query_only_tuning_has_the_known_number_of_parameters(model, image_size, count):
    classifier = {'type': 'open_clip', 'model': model, 'image_size': image_size, 'merge_size': 64}
    with torch.device('meta'):
        trained = apply_simo(build_network(GENERATOR, classifier), ('queries',))
    assert sum(parameter.numel() for parameter in trained) == count
