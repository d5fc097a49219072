"""What an endpoint's replies mean."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from pipeline.data.captions.llm.client import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("7200", 3600.0),
        ("inf", 3600.0),
        ("1e400", 3600.0),
        ("nan", None),
        ("soon", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
    ],
)
def test_an_endpoint_is_waited_for_as_long_as_it_says_and_an_hour_at_most(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after(value) == seconds


def test_a_date_is_a_time_from_now() -> None:
    found = retry_after(formatdate(time.time() + 100))
    assert found is not None
    assert 98 < found < 101
