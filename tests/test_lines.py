"""Lines of the metrics page, whose text is kept while their numbers stay."""

from server import catalogue
from server.lines import lines_template

SERIES = [("tiny", "1"), ("tiny", "2")]


def test_text_is_written_anew_where_a_number_has_changed():
    template = lines_template(catalogue.QUEUE_DEPTH, SERIES)
    first = template.filled([1, 2])
    assert first.splitlines() == [
        'keelmark_queue_depth{model="tiny",version="1"} 1',
        'keelmark_queue_depth{model="tiny",version="2"} 2',
    ]
    assert template.filled(iter([1, 2])) is first
    assert template.filled([1, 3]) == first.replace("} 2", "} 3")
    assert template.filled([1, 2]) == first


def test_a_metric_without_series_has_no_lines():
    assert lines_template(catalogue.QUEUE_DEPTH, []).filled([]) == ""
