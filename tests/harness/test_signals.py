"""How a signal ends a block, whatever is going on in it."""

import os
import signal
import time

import pytest

from medbench.harness.signals import Stopped, stopped_in_order


def wait_for(number: int) -> None:
    """As Ray's wait does."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(10)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_library_that_makes_an_interrupt_of_its_own_does_not_hide_which_signal_it_was(
    number: int, code: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as told, stopped_in_order():
        wait_for(number)
    assert told.value.exit_code == code
    assert signal.getsignal(number) is before
