"""The look of the gateway's reports: pages whose plots are drawn dark on light."""

from __future__ import annotations

from llmops.markup import page, tag

_STYLE = """
:root { color-scheme: light; } body { margin: 0; background: #fcfcfa; color: #1d2126;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
.finding, .warning { border-left: 4px solid #2563a8; padding: .5rem 1rem; }
.open, .warning { border-color: #a8322a; } .warning { background: #f9dedb; }
.lead, caption, dt, thead th { color: #565d66; } figure { margin: 0; min-width: 0; } svg { width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1rem 2.5rem; }
.scroll { overflow-x: auto; } code { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; } th, td { text-align: left; padding: .4rem 1rem .4rem 0;
  border-bottom: 1px solid #dcdfe3; white-space: nowrap; } .number { text-align: right; } tbody th { font-weight: 500; }
dl div { display: grid; grid-template-columns: 14rem 1fr; gap: 1rem; border-bottom: 1px solid #dcdfe3; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def document(title: str, *parts: object) -> str:
    """A whole page, `title` above its `parts`."""
    return page(title, tag("main", tag("h1", title), *parts), style=_STYLE, colours="light", drawn=True)
