import numpy
import pytest

from caseharden.cost.devices import TABLE, named
from caseharden.errors import CasehardenError

WORK = numpy.array([[1e15, 1.0, 1.0], [1.0, 1e12, 1.0], [1.0, 1.0, 1e6]])


def test_several_devices_of_a_name():
    assert named("a100-80x4") == (TABLE["a100-80"], 4)
    assert named("h100", price=1.0)[0].price == 1
    with pytest.raises(CasehardenError, match="Did you mean 'h100'"):
        named("h10")
    with pytest.raises(CasehardenError, match="utilization"):
        named("h100", utilization=1.2)


def test_what_takes_longest_is_the_time_unless_one_waits_for_another():
    device = TABLE["h100"]
    computing, moving, calling = device.seconds(WORK, "bfloat16")
    assert computing == pytest.approx(1e15 / 989e12 / device.utilization)
    assert moving == pytest.approx(1e12 / 3350e9 / device.moved)
    assert calling == pytest.approx(1e6 * device.call)
    together = WORK.sum(0, keepdims=True)
    assert device.seconds(together, "bfloat16")[0] == pytest.approx(max(computing, moving, calling), rel=1e-3)


def test_half_the_utilization_is_twice_the_time():
    half = named("h100", utilization=0.2)[0]
    assert half.seconds(WORK, "bfloat16")[0] == pytest.approx(2 * TABLE["h100"].seconds(WORK, "bfloat16")[0])
