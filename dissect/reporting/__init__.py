"""One report: what was found about groups of runs and studies, as a single page of HTML to hand around.

`gathered` reads the runs into plain data (texts, tables and figures); `as_html` turns these into HTML by one template.
"""

from dissect.reporting.gather import gathered
from dissect.reporting.page import as_html, require_ours, write

__all__ = ["as_html", "gathered", "require_ours", "write"]
