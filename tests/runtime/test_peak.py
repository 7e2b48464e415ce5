"""Peak memory against a sum by hand."""

import torch

from minibert.runtime.peak import PeakMeter


def test_peak_counts_live_tensors():
    before = torch.zeros(256)  # 1024 bytes
    with PeakMeter([before, before.view(2, 128)]) as meter:
        assert meter.now == 1024
        first = torch.ones(1024)  # 4096
        first.add_(1)  # in place
        part = first[3:].view(-1)  # the same memory
        assert meter.now == 5120
        del first
        assert meter.now == 5120  # the view holds it
        del part
        assert meter.now == 1024
        tiny = torch.ones(1)  # a block of 512
        assert meter.now == 1536
        torch.ones(2048)
        assert tiny.shape == (1,)
    assert (meter.now, meter.peak) == (1536, 1536 + 8192)
