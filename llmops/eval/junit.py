"""A verdict as JUnit XML, which continuous integration shows beside its tests, and as Markdown for a pull request."""

from __future__ import annotations

from xml.etree import ElementTree

from llmops.eval.verdict import lines
from llmops.records import Verdict


def to_junit(verdict: Verdict) -> str:
    """One test case a rule: a failed rule fails, an undecided one counts as an error, since it is no pass either."""
    results = [rule["result"] for rule in verdict.rules]
    suite = ElementTree.Element(
        "testsuite",
        name=verdict.gate,
        tests=str(len(results)),
        failures=str(results.count("FAIL")),
        errors=str(results.count("INCONCLUSIVE")),
    )
    for result, rule, value, interval, note in lines(verdict):
        case = ElementTree.SubElement(suite, "testcase", classname=verdict.gate, name=rule)
        said = f"{value} ({verdict.confidence:.0%}: {interval})" if value else note
        if result != "PASS":
            kind = "failure" if result == "FAIL" else "error"
            ElementTree.SubElement(case, kind, message=f"{result}: {said}", type=result).text = note
        else:
            ElementTree.SubElement(case, "system-out").text = said
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("result", "model_digest", "against", "digest"):
        ElementTree.SubElement(properties, "property", name=name, value=str(getattr(verdict, name)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(verdict: Verdict) -> str:
    """The result in bold, then a row a rule."""
    against = f" against `{verdict.against}`" if verdict.against else ""
    rows = [("", "rule", "value", f"{verdict.confidence:.0%} interval", ""), ("---",) * 5, *lines(verdict)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return f"**{verdict.result}** by `{verdict.gate}`{against}\n\n{table}\n"
