"""What a worker writes about requests it did not take is exact and bounded."""

import logging

from manager_world import TurnedClock
from qflare.service.aggregator.notices import Notices


def test_a_flood_does_not_fill_the_log(caplog):
    """Of a thousand equal refusals a minute some are written; the next minute says how many were not."""
    clock = TurnedClock()
    notices = Notices(clock, per_minute=3)
    with caplog.at_level(logging.INFO, logger="qflare.service.aggregator"):
        for _ in range(1000):
            notices.say(logging.INFO, "hello", "tag")
        notices.say(logging.INFO, "hello", "length")
        assert ["hello not taken: tag"] * 3 + ["hello not taken: length"] == caplog.messages
        clock.turn(61)
        notices.say(logging.INFO, "hello", "tag")
        assert "hello not taken: tag (997 lines like this were left out)" == caplog.messages[-1]


def test_details_are_of_one_kind(caplog):
    """Lines whose detail alone differs share their bound."""
    notices = Notices(TurnedClock(), per_minute=1)
    with caplog.at_level(logging.INFO, logger="qflare.service.aggregator"):
        for number in range(5):
            notices.say(logging.WARNING, "record", "overloaded", f"{number} bytes")
    assert ["record not taken: overloaded: 0 bytes"] == caplog.messages
