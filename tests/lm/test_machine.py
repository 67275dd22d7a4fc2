"""Devices and threads that are not there."""

import pytest
import torch

from caseharden.errors import CasehardenError
from caseharden.lm.machine import MOST_THREADS, check_threads, device_of

ABSENT = ["cuda:99", "xpu:99", "banana", "", "cuda:-1", "privateuseone"]


def test_what_is_there_is_taken():
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", [*ABSENT, *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])])
def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do(name):
    with pytest.raises(CasehardenError, match=r"PyTorch cannot compute on .* Write auto or cpu"):
        device_of(name)


@pytest.mark.parametrize("threads", [-2, 0, MOST_THREADS + 1, 10**12])
def test_threads_that_cannot_be_had_are_an_error(threads):
    with pytest.raises(CasehardenError, match="threads is from 1 to"):
        check_threads(threads)
    check_threads(None)
    check_threads(1)
