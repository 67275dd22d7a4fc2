import torch

from caseharden.cost.ledger import Ledger, Work


class Holds(Ledger):
    """Knows how many bytes are held."""

    held = 0

    def made(self, tensor):
        self.held += tensor.untyped_storage().nbytes()
        return True

    def given_back(self, kind, size):
        self.held -= size


def test_memory_is_held_until_it_is_given_back_and_views_and_writes_hold_none():
    with Holds() as ledger:
        x = torch.zeros(4, 8)
        y = x.T
        x.add_(1)
        assert ledger.held == 4 * 4 * 8
        z = [x + y.T]
        assert ledger.held == 2 * 4 * 4 * 8
        del x
        z.clear()
        assert ledger.held == 4 * 4 * 8  # a view keeps its storage
        del y
    assert ledger.held == 0


def test_a_product_of_matrices_is_counted_as_such():
    with Ledger() as ledger:
        torch.ones(3, 5) @ torch.ones(5, 7)
    made = Work(0, 4 * (3 * 5 + 5 * 7), 2)  # the two factors
    assert ledger.work == made + Work(2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7), 1)


def test_tensors_without_data_have_nothing_to_tell():
    with Ledger():
        assert not torch.ones(3, dtype=torch.bool, device="meta").all().item()
        assert float(torch.ones((), device="meta")) == 0
