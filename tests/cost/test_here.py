import numpy
import pytest

from caseharden.cost.architecture import Architecture, Pass, Variant
from caseharden.cost.here import held_here, here
from cost_toys import model_in


def test_a_machine_is_as_fast_as_its_passes(tiny_lm, tmp_path):
    architecture = Architecture(model_in(tmp_path, tiny_lm))
    names = frozenset(architecture.bare(name) for name, _ in architecture.twin.named_parameters())
    trained = Variant(True, False, False, False, None, names)
    begun = Variant(False, True, True, False, None, frozenset())
    passes = [Pass(trained, rows, 20, 0, 4) for rows in (2, 8, 32)] + [Pass(begun, 8, 1, 12, 1)]
    device = here(architecture, passes, base=1e8)
    work = [architecture.profile(one.variant).of([one[1:]])[0, :3] for one in passes]
    seconds = device.seconds(numpy.array(work), "float32")
    assert (seconds > 0).all() and seconds[0] < seconds[2]
    assert device.serial and device.base == 1e8 < device.memory


def test_what_this_process_held_does_not_shrink():
    before = held_here()
    assert before > 1e6
    assert held_here() >= before == pytest.approx(before)
