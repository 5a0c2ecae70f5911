"""Writes worker/model/entities.h: the HTML character references of Python's html.entities, and ftfy's capitals.

    python tools/make_entities.py worker/model/entities.h        needs ftfy (6.3)

The names are those of the HTML standard (2231 with and without semicolon). ftfy adds capital spellings of lower-case
names, "&EACUTE;", that decode to the capital letter.
"""

import html
import sys

from ftfy.chardata import HTML_ENTITIES


def rows():
    standard = html.entities.html5
    names = {name.rstrip(";") for name in standard}
    for name in names:
        text = standard.get(name + ";") or standard[name]
        assert name not in standard or name + ";" in standard
        yield name, text, "ENTITY_BARE" if name in standard else "ENTITY_CLOSED"
    for reference, text in HTML_ENTITIES.items():
        name = reference[1:-1]
        if name + ";" not in standard:
            assert name not in names
            yield name, text, "ENTITY_CAPITALS"
        else:
            assert standard[name + ";"] == text


def literal(text):
    """A C string of the UTF-8 bytes; octal, because a hexadecimal escape would swallow the next digit."""
    return '"' + "".join("\\%03o" % byte for byte in text.encode()) + '"'


def make(path):
    table = sorted(rows())
    assert all(name.isascii() and len(name) < 32 for name, _, _ in table)
    lines, line = [], "   "
    for name, text, kind in table:
        item = ' {"%s", %s, %s},' % (name, literal(text), kind)
        if len(line + item) > 118:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line)
    head = """/* entities.h - HTML character references, sorted by name. Made by tools/make_entities.py: do not edit. */
#ifndef REFRAIN_WORKER_MODEL_ENTITIES_H
#define REFRAIN_WORKER_MODEL_ENTITIES_H

enum entity_kind {
    ENTITY_CLOSED,   /* "&name;" */
    ENTITY_BARE,     /* "&name;" and, in the standard's lenient reading, "&name" */
    ENTITY_CAPITALS, /* "&NAME;" by ftfy only */
};

struct entity {
    const char *name; /* without & and ; */
    const char *text; /* UTF-8 */
    enum entity_kind kind;
};

/* clang-format off */
static const struct entity entities[] = {
"""
    tail = "\n};\n/* clang-format on */\n\nenum { ENTITY_COUNT = %d, ENTITY_NAME_MAX = %d };\n\n#endif\n"
    longest = max(len(name) for name, _, _ in table)
    with open(path, "w") as f:
        f.write(head + "\n".join(lines) + tail % (len(table), longest))


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else "worker/model/entities.h")
