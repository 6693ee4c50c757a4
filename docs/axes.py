"""Draws `axes.svg`: which values of a tensor share their statistics in each layer.

    python axes.py > axes.svg

Each cube is one tensor with the axes N (samples), C (channels) and H, W (positions,
merged into one axis). Coloured is one set of values that are normalized together,
always the one at the front corner; heavy lines part it from the other sets.
"""

# The tensor's size in cells along N, C and the positions, a cell's edge in pixels, and
# the number of groups.
N, C, S = 4, 6, 5
CELL = 16
G = 2

# Isometric: C runs from the left corner to the front one, N from there to the right.
DX, DY = CELL * 0.866, CELL * 0.5

PANEL = 192
TOP = 12

# Name, the size of one set along N and C in cells, and the caption. A set has all the
# positions in every layer.
LAYERS = [
    ("BatchNorm", (N, 1), ["over N, H, W", "one set per channel"]),
    ("LayerNorm", (1, C), ["over C, H, W", "one set per sample"]),
    ("InstanceNorm", (1, 1), ["over H, W", "one set per sample", "and channel"]),
    ("GroupNorm", (1, C // G), ["over C/G, H, W", "one set per sample", "and group"]),
    ("RMSNorm", (1, C), ["over C, H, W", "one set per sample,", "mean not subtracted"]),
]
MEAN_AND_VARIANCE, MEAN_SQUARE = "a", "b"
NOTES = [
    f"N samples, C channels, H &#215; W positions; here G = {G} groups of channels.",
    "LayerNorm and RMSNorm reduce the trailing axes, as many as asked; here all but N.",
]

# GitHub shows the same file on white and on near-black, so text and lines are of middle
# brightness: a contrast of at least 4 to 1 on both.
STYLE = """
text{font:15px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;
fill:#737b86}
.m{text-anchor:middle}
.name{font-size:19px;font-weight:600}
.axis{font-style:italic}
.t{fill:#8b95a3;fill-opacity:.12}
.l{fill:#8b95a3;fill-opacity:.24}
.r{fill:#8b95a3;fill-opacity:.36}
.cells{fill:none;stroke:#8b95a3;stroke-opacity:.55;stroke-width:.7}
.sets{fill:none;stroke:#737b86;stroke-width:1.8;
stroke-linejoin:round;stroke-linecap:round}
.a>*,.b>*{fill-opacity:1}
.a>.t{fill:#f2a65e}
.a>.l{fill:#e08732}
.a>.r{fill:#bf6a1c}
.b>.t{fill:#62bab2}
.b>.l{fill:#3f9f97}
.b>.r{fill:#2b7d76}
.a>.cells,.b>.cells{stroke:#fff;stroke-opacity:.4}
"""


def number(value):
    return f"{value:.1f}".removesuffix(".0").replace("-0.", "-.")


def point(n, c, s):
    """A grid point on the page; the origin is the top of the cube's front corner."""
    return f"{number((n + c - C) * DX)} {number((c - C - n) * DY + s * CELL)}"


def path(*points, close=""):
    return "M" + "L".join(point(*p) for p in points) + close


def faces(n, c):
    """The visible faces of the block of n cells along N and c along C at the front."""
    a = C - c
    corners = {
        "t": [(0, a, 0), (0, C, 0), (n, C, 0), (n, a, 0)],
        "l": [(0, a, 0), (0, C, 0), (0, C, S), (0, a, S)],
        "r": [(0, C, 0), (n, C, 0), (n, C, S), (0, C, S)],
    }
    return "".join(
        f'<path class="{face}" d="{path(*points, close="Z")}"/>'
        for face, points in corners.items()
    )


def lines(style, n, c, step_n, step_c, step_s):
    """Lines on the visible faces of such a block, every so many cells on each axis."""
    a = C - c
    along = (
        [path((i, a, 0), (i, C, 0), (i, C, S)) for i in range(0, n + 1, step_n)]
        + [path((n, i, 0), (0, i, 0), (0, i, S)) for i in range(a, C + 1, step_c)]
        + [path((0, a, i), (0, C, i), (n, C, i)) for i in range(0, S + 1, step_s)]
    )
    return f'<path class="{style}" d="{"".join(along)}"/>'


def block(n, c):
    """The faces of a block with all its cells."""
    return faces(n, c) + lines("cells", n, c, 1, 1, 1)


def text(x, y, words, style="m"):
    return f'<text x="{number(x)}" y="{number(y)}" class="{style}">{words}</text>'


def cube():
    """What all five have in common: cells, faces and the names of the axes."""
    foot = S * CELL
    return (
        f'<g id="cube">{block(N, C)}'
        + text(-C * DX / 2 - 9, foot - C * DY / 2 + 18, "C", "m axis")
        + text(N * DX / 2 + 9, foot - N * DY / 2 + 18, "N", "m axis")
        + f'<g transform="translate({number(-C * DX - 9)} {number(foot / 2 - C * DY)}) '
        + f'rotate(-90)">{text(0, 0, "H, W", "m axis")}</g></g>'
    )


def panel(index, name, size, caption):
    middle = PANEL * (index + 0.5)
    corner = TOP + (C + N) * DY
    # The cube reaches further to the left of its front corner than to the right.
    left = middle + (C - N) * DX / 2
    colour = MEAN_SQUARE if name == "RMSNorm" else MEAN_AND_VARIANCE
    title = corner + S * CELL + 42
    return (
        f'<g transform="translate({number(left)} {number(corner)})"><use href="#cube"/>'
        f'<g class="{colour}">{block(*size)}</g>'
        f"{lines('sets', N, C, *size, S)}</g>"
        + text(middle, title, name, "m name")
        + "".join(text(middle, title + 24 + 20 * i, t) for i, t in enumerate(caption))
    )


def key(x, y, colour, words):
    square = f'<path class="l" d="M{x} {y - 12}h14v14h-14z"/>'
    return f'<g class="{colour}">{square}</g>' + text(x + 22, y, words, "")


def main():
    width = PANEL * len(LAYERS)
    foot = TOP + (C + N) * DY + S * CELL + 148
    height = foot + 20 + 22 * len(NOTES)
    body = [
        f"<defs>{cube()}</defs>",
        *(panel(i, *layer) for i, layer in enumerate(LAYERS)),
        key(140, foot, MEAN_AND_VARIANCE, "a set that shares one mean and variance"),
        key(540, foot, MEAN_SQUARE, "a set that shares one mean square"),
        *(text(width / 2, foot + 30 + 22 * i, note) for i, note in enumerate(NOTES)),
    ]
    names = ", ".join(name for name, _, _ in LAYERS)
    description = " ".join(
        f"{name}: {axes}; {' '.join(sets)}." for name, _, (axes, *sets) in LAYERS
    )
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img" aria-labelledby="t d">'
        f'<title id="t">The axes that {names} reduce</title>'
        f'<desc id="d">{description}</desc><style>{STYLE}</style>'
    )
    print("\n".join(body))
    print("</svg>")


if __name__ == "__main__":
    main()
