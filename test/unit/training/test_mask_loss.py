import torch

from fisa_ros.training.mask_loss import mask_loss, match


def minimised(terms):
    return sum(term.weight * float(term.total) / max(1, float(term.count)) for term in terms.values())


def test_match_finds_the_cheapest_assignment():
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])
    logits = torch.tensor([[-9.0, -9, -9, 9], [9, 9, 9, 9], [9, 9, -9, -9]])
    queries, targets = match(logits, torch.zeros(3), masks)
    assert dict(zip(targets.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 0}


def test_perfect_masks_cost_nothing_and_no_objects_are_allowed():
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 1
    logits = torch.stack([(2 * mask[0] - 1) * 50, torch.full((4, 4), -50.0)])[None]
    objectness = torch.tensor([[50.0, -50.0]])
    assert minimised(mask_loss([(logits, objectness)], [mask])) < 1e-3
    assert minimised(mask_loss([(logits, -objectness)], [mask])) > 1
    empty = mask_loss([(logits, objectness)], [mask[:0]])
    assert all(term.total.isfinite() for term in empty.values())
    assert empty['bce'].count == 0


def test_halves_of_a_batch_add_up_to_it():
    generator = torch.Generator().manual_seed(0)
    logits, objectness = torch.randn(2, 5, 4, 4, generator=generator), torch.randn(2, 5, generator=generator)
    masks = [(torch.rand(count, 4, 4, generator=generator) > 0.5).float() for count in (1, 3)]
    whole = mask_loss([(logits, objectness)], masks)
    halves = [mask_loss([(logits[n : n + 1], objectness[n : n + 1])], masks[n : n + 1]) for n in (0, 1)]
    for name, term in whole.items():
        torch.testing.assert_close(term.total, halves[0][name].total + halves[1][name].total)
        assert term.count == halves[0][name].count + halves[1][name].count
