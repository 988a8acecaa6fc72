"""A sweep as one page that needs nothing else: no network, no script, no other file."""

from runner.report.page import make_page, write_report

__all__ = ["make_page", "write_report"]
