"""A newsletter of a thousand lines, killed twice, on both databases; newsletter.py plays one of any size."""

from newsletter import Newsletter
from quick_sink import QuickSink


def test_a_newsletter_goes_out_once_each_and_all_that_was_said_meanwhile_was_true(site, tmp_path):
    smtp = QuickSink(tmp_path)
    try:
        figures = Newsletter(site, smtp, rows=1000, kills=2, seed=7).play()
    finally:
        smtp.stop()
    assert (figures.killed, figures.lost, figures.unexplained, figures.then, figures.dead) == (2, 0, 0, 1, 4)
    assert figures.lies == []
    assert figures.looks > 3
