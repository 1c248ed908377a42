"""Pictures of what was in force when: only what was so in the time that is pictured."""

from __future__ import annotations

import pytest

from sidecar.tools.timeline import Span, as_svg, as_text

DURING = Span("during", "ready_q", 120, 130, "")


@pytest.mark.parametrize(
    "outside",
    [
        Span("later", "override", 201, 300, ""),
        Span("earlier", "override", 10, 99, ""),
        Span("never", "override", 150, 140, ""),
    ],
    ids=lambda span: span.row,
)
def test_what_was_in_force_at_another_time_is_no_part_of_the_picture(outside: Span) -> None:
    for spans in ([DURING], [DURING, outside]):
        drawn = as_text(spans, begin_ns=100, end_ns=200, width=80)
        assert [row.split()[0] for row in drawn[1:-1]] == ["during"]
        assert drawn[-1] == "# ready queue held"
    pictured = as_svg([DURING, outside], begin_ns=100, end_ns=200, title="")
    assert pictured == as_svg([DURING], begin_ns=100, end_ns=200, title="")
    assert as_text([outside], begin_ns=100, end_ns=200, width=80) == []
