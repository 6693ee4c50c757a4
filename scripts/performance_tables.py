"""Numbers, tables and paragraphs of the page on performance."""

import math
import statistics
import textwrap

from performance_records import escaped


def figure(number):
    """Three significant digits."""
    if number is None:
        return ""
    if not math.isfinite(number):
        return str(number)
    rounded = f"{number:.2e}"
    exponent = int(rounded.split("e")[1])
    return f"{float(rounded):,.{max(0, 2 - exponent)}f}" if exponent > -4 else rounded


def spread(values, form=figure):
    if not values:
        return ""
    median = form(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({form(min(values))}–{form(max(values))})"


def percent(part):
    return "" if part is None else f"{figure(100 * part)} %"


def table(header, rows):
    """A column whose title ends in a colon is one of numbers; one that is empty throughout is left out."""
    if not rows:
        return ""
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    lines = [[header[column].removesuffix(":") for column in kept]]
    lines.append(["---:" if header[column].endswith(":") else "---" for column in kept])
    lines += [[escaped(row[column]) for column in kept] for row in rows]
    return "\n".join("|" + "".join(f" {text} |" if text else " |" for text in line) for line in lines)


def paragraph(text):
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)
