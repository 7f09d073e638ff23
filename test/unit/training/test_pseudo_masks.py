import torch

from fisa_ros.training.pseudo_masks import agreement


def test_a_class_is_agreed_on_where_both_answers_name_it():
    first = torch.tensor([[0.5, 0.1, 0.4], [0.5, 0.3, 0.2], [0.4, 0.1, 0.5], [0.4, 0.1, 0.5]])
    second = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.6, 0.1], [0.4, 0.1, 0.5], [0.7, 0.1, 0.2]])
    score, row, is_agreed = agreement(first, second)
    # Of two classes that both answers find likely, the same one must be the best; void is none.
    assert is_agreed.tolist() == [True, False, False, False]
    assert row.tolist()[0] == 0
    torch.testing.assert_close(score, torch.tensor([0.4, 0.3, 0.4, 0.4]))
