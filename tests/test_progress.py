"""Progress where nothing can be redrawn, as in the log of a job that runs overnight."""

import io

from rich.console import Console

from cutwork.progress import progress_bar


def lines_of(seconds_a_step, steps, **options):
    """What is written of a bar over `steps` steps."""
    log, now = io.StringIO(), [0.0]
    with progress_bar(Console(file=log), **options) as bar:
        bar.get_time = lambda: now[0]
        task = bar.add_task("alps 75%:", total=steps)
        for _ in range(steps):
            now[0] += seconds_a_step
            bar.advance(task)
    return log.getvalue().splitlines()


def test_a_log_says_each_minute_how_far_it_is():
    first, *others = lines_of(40, 6)
    assert first == "alps 75%: 2/6, 80 s so far, about 3 min left"
    assert len(others) == 2


def test_what_is_soon_done_leaves_no_line():
    assert lines_of(5, 6) == []
    assert lines_of(40, 6, lines=False) == []


def test_the_time_left_is_known_where_a_step_takes_minutes():
    assert lines_of(200, 4)[1] == "alps 75%: 2/4, 7 min so far, about 7 min left"
