import torch
import torch.nn.functional as F

from fisa_ros.training.processes import Processes
from fisa_ros.training.terms import StepGradients, Term


def trained(batches, scale=2.0**16):
    """Return how many of some steps in half precision were skipped, and the weights after them."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 133)
    optimizer = torch.optim.SGD(layer.parameters(), 1e-2)
    scaler = torch.amp.GradScaler('cpu', init_scale=scale)
    images, labels = torch.randn(1600, 64), torch.randint(133, (1600,))
    skipped = 0
    for _ in range(12):
        optimizer.zero_grad(set_to_none=True)
        gradients = StepGradients(list(layer.parameters()), Processes(), scaler, batches)
        for part, wanted in zip(images.chunk(batches), labels.chunk(batches), strict=True):
            with torch.autocast('cpu', torch.float16):
                scores = layer(part)
            total = F.cross_entropy(scores.float(), wanted, reduction='sum')
            gradients.add({'named': Term(total, len(part), 2.0)}, [False])
        gradients.finish()
        scaler.unscale_(optimizer)
        skipped += not all(parameter.grad.isfinite().all() for parameter in layer.parameters())
        scaler.step(optimizer)
        scaler.update()
    return skipped, layer.weight.detach()


def test_half_precision_skips_no_more_steps_where_a_step_comes_in_several_batches():
    skipped, weights = trained(1)
    assert skipped == 0
    for batches in (2, 4):
        again, split = trained(batches)
        assert again == 0
        torch.testing.assert_close(split, weights, atol=2e-4, rtol=0)
