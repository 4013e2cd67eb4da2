"""Draw the pictures of the pages, each for light and for dark backgrounds: `python docs/pictures/draw.py`."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
ACCESS, REFRESH = 120, 125  # minutes for which the tokens of a pair are valid
DUE = (72, 96)  # minutes after which a session renews: 60 to 80 % of the access token's lifetime


@dataclass(frozen=True)
class Palette:
    """The colours of one variant."""

    text: str
    muted: str
    line: str
    box: str
    blue: str
    violet: str
    amber: str
    red: str
    on_colour: str
    background: str


LIGHT = Palette(
    "#1d2633", "#4a5361", "#8a94a3", "#f3f5f8", "#2468c0", "#6a4bc0", "#fff0c7", "#b93a30", "#ffffff", "#ffffff"
)
DARK = Palette(
    "#e6edf3", "#aab4c0", "#6e7a88", "#1c232c", "#3b82d6", "#8a6fe0", "#4a3d12", "#f0716a", "#ffffff", "#0d1117"
)


@dataclass
class Drawing:
    """An SVG in the making."""

    width: int
    height: int
    title: str
    palette: Palette
    parts: list[str] = field(default_factory=list)

    def text(self, x, y, words, *, colour=None, anchor="start", bold=False, size=14):
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour or self.palette.text}" font-size="{size}"'
            f' text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def box(self, x, y, width, height, colour, *, edge=None, dashed=False):
        stroke = f' stroke="{edge}" stroke-width="1.5"' if edge else ""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colour}"{stroke}{dash}/>'
        )

    def line(self, x1, y1, x2, y2, *, colour=None, arrow=True, dashed=False, both=False):
        colour = colour or self.palette.muted
        marks = f' marker-end="url(#{self.tip(colour)})"' if arrow else ""
        marks += f' marker-start="url(#{self.tip(colour)})"' if both else ""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="1.6"{marks}{dash}/>'
        )

    def path(self, d, *, colour=None):
        colour = colour or self.palette.muted
        self.parts.append(
            f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#{self.tip(colour)})"/>'
        )

    def tip(self, colour):
        """Return the id of an arrow's tip of a colour, and define it once."""
        name = f"tip-{colour.lstrip('#')}"
        definition = (
            f'<marker id="{name}" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto-start-reverse"'
            f' markerUnits="userSpaceOnUse"><path d="M0 0 L9 4 L0 8 z" fill="{colour}"/></marker>'
        )
        if definition not in self.parts:
            self.parts.insert(0, definition)
        return name

    def svg(self):
        body = "\n  ".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
            f" aria-labelledby=\"title\" font-family='{FONT}'>\n"
            f'  <title id="title">{escape(self.title)}</title>\n'
            f'  <rect width="{self.width}" height="{self.height}" rx="8" fill="{self.palette.background}"/>\n'
            f"  {body}\n</svg>\n"
        )


def life_of_a_pair(palette):
    """Draw how long both tokens of a pair are valid, to scale."""
    drawing = Drawing(850, 270, "The life of a pair of tokens, to scale", palette)
    left, scale, row = 24, 3.6, 34  # pixels: of minute 0, of a minute, of a bar

    def at(minute):
        return left + scale * minute

    def bar(minute, y, minutes, colour, words):
        drawing.box(at(minute), y, scale * minutes, row, colour)
        drawing.text(at(minute) + 12, y + 22, words, colour=palette.on_colour)

    drawing.box(at(DUE[0]), 34, scale * (DUE[1] - DUE[0]), 216, palette.amber)
    drawing.text(at(sum(DUE) / 2), 22, "the session renews", anchor="middle", bold=True)
    drawing.text(left, 22, "issued", colour=palette.muted)
    for minute, words, anchor in ((ACCESS, "120", "end"), (REFRESH, "125", "start")):
        drawing.line(at(minute), 44, at(minute), 248, colour=palette.line, arrow=False, dashed=True)
        x = at(minute) + (3 if anchor == "end" else -3)
        drawing.text(x, 262, words, colour=palette.muted, anchor=anchor, size=13)
    bar(0, 44, ACCESS, palette.blue, "access token: 2 h")
    bar(0, 84, REFRESH, palette.violet, "refresh token: 2 h 5 min")
    middle = sum(DUE) / 2
    drawing.line(at(middle), 120, at(middle), 142, colour=palette.text)
    bar(middle, 146, ACCESS, palette.blue, "next access token: 2 h")
    bar(middle, 186, REFRESH, palette.violet, "next refresh token: 2 h 5 min")
    for minute, words, anchor in ((0, "0 min", "start"), (DUE[0], "72", "middle"), (DUE[1], "96", "middle")):
        drawing.text(at(minute), 262, words, colour=palette.muted, anchor=anchor, size=13)
    return drawing


def sequence(title, height, names, palette):
    """Begin a sequence diagram, and return it with the place of each of its lines."""
    drawing = Drawing(850, height, title, palette)
    step = 850 / len(names)
    places = {name: step * (number + 0.5) for number, name in enumerate(names)}
    for name, x in places.items():
        drawing.line(x, 48, x, height - 12, colour=palette.line, arrow=False)
        drawing.box(x - 75, 12, 150, 36, palette.box, edge=palette.line)
        drawing.text(x, 35, name, anchor="middle", bold=True)
    return drawing, places


def message(drawing, places, y, ends, words):
    """Draw a message from one line to another."""
    x1, x2 = (places[end] for end in ends)
    drawing.text((x1 + x2) / 2, y - 7, words, anchor="middle", size=13)
    drawing.line(x1, y, x2, y)


def rotation(palette):
    """Draw a renewal with a store, in order."""
    drawing, places = sequence("A rotation", 448, ["your app", "session", "store", "SignalWire"], palette)
    app, session, store, service = places
    message(drawing, places, 82, (app, session), "await session.token()")
    message(drawing, places, 116, (session, app), "the current token, at once")
    x = places[session]
    drawing.box(x - 100, 132, 200, 30, palette.amber)
    drawing.text(x, 152, "the token is due: renew", anchor="middle", size=13)
    message(drawing, places, 192, (session, store), "take the lease, read the pair")
    message(drawing, places, 226, (session, store), "mark the refresh token")
    message(drawing, places, 260, (session, service), "use the refresh token")
    message(drawing, places, 294, (service, session), "a new pair")
    message(drawing, places, 328, (session, store), "save the new pair")
    message(drawing, places, 362, (session, app), "rotations(), events")
    message(drawing, places, 396, (app, session), "await session.token()")
    message(drawing, places, 430, (session, app), "the new token")
    return drawing


def lost_answer(palette):
    """Draw what a session does when the answer to a refresh is lost."""
    drawing, places = sequence("A lost answer", 380, ["your app", "session", "SignalWire"], palette)
    app, session, service = places
    message(drawing, places, 82, (session, service), "use the refresh token")
    x1, x2 = places[session], places[service]
    middle = (x1 + x2) / 2
    drawing.line(x2, 122, middle + 12, 122, colour=palette.red)
    drawing.text(middle, 127, "✕", anchor="middle", colour=palette.red, bold=True, size=18)
    drawing.text(x2 - 12, 114, "the new pair is lost", anchor="end", colour=palette.red, size=13)
    drawing.box(x1 - 190, 146, 380, 50, palette.amber)
    drawing.text(x1, 167, "The refresh token may be used up:", anchor="middle", size=13)
    drawing.text(x1, 186, "the session doesn't present it again.", anchor="middle", size=13)
    message(drawing, places, 230, (app, session), "await session.token()")
    message(drawing, places, 264, (session, app), "the current token: still valid")
    message(drawing, places, 300, (session, service), "issue a pair, with the API token")
    message(drawing, places, 334, (service, session), "a new pair")
    message(drawing, places, 366, (session, app), "event: reissued")
    return drawing


def architecture(palette):
    """Draw who talks to whom, and who has which secret."""
    drawing = Drawing(850, 384, "Your app, its sessions, SignalWire, a store and browsers", palette)

    def node(x, y, width, height, name, *details, colour=None):
        drawing.box(x, y, width, height, colour or palette.box, edge=palette.line)
        drawing.text(x + width / 2, y + 25, name, anchor="middle", bold=True)
        for number, line in enumerate(details):
            drawing.text(x + width / 2, y + 46 + 18 * number, line, anchor="middle", colour=palette.muted, size=13)

    drawing.box(16, 16, 516, 232, "none", edge=palette.line, dashed=True)
    drawing.text(28, 36, "your backend: has the API token", colour=palette.muted, size=13)
    node(36, 52, 150, 76, "your app", "awaits token()")
    node(262, 52, 250, 76, "session or fleet", "keeps tokens valid")
    node(262, 166, 250, 62, "TokenClient", "sends the requests")
    node(36, 166, 150, 62, "TokenBackend", "answers pages")
    node(640, 90, 194, 138, "SignalWire", "Fabric API", "realtime gateway")
    node(262, 284, 250, 62, "store", "SQLite or Redis: encrypted pairs")
    node(36, 284, 150, 62, "browser", "access token only")
    drawing.line(186, 90, 258, 90)
    drawing.line(387, 128, 387, 162)
    drawing.line(512, 197, 636, 197)
    drawing.text(574, 188, "API token", anchor="middle", colour=palette.red, size=13)
    drawing.line(186, 180, 300, 132)
    drawing.line(111, 284, 111, 232, both=True)
    drawing.path("M512 100 H556 V315 H516", colour=palette.muted)
    drawing.text(562, 262, "pairs", colour=palette.muted, size=13)
    drawing.path("M111 346 V368 H737 V232", colour=palette.blue)
    drawing.text(640, 360, "access token", anchor="middle", colour=palette.blue, size=13)
    return drawing


def states(palette):
    """Draw the states of a session, and what leads from one to another."""
    drawing = Drawing(850, 350, "The states of a session", palette)
    width, height, y = 150, 62, 110
    places = {name: 24 + number * 217 for number, name in enumerate(("FRESH", "DUE", "EXPIRING", "UNAVAILABLE"))}
    for name, x in places.items():
        colour = {"FRESH": palette.blue, "UNAVAILABLE": palette.box}.get(name, palette.amber)
        edge = {"UNAVAILABLE": palette.red}.get(name, palette.line)
        drawing.box(x, y, width, height, colour, edge=edge)
        drawing.text(
            x + width / 2,
            y + 27,
            name,
            anchor="middle",
            bold=True,
            colour=palette.on_colour if name == "FRESH" else None,
        )
    details = {
        "FRESH": "returns it at once",
        "DUE": "returns it at once",
        "EXPIRING": "waits, then returns",
        "UNAVAILABLE": "waits up to 10 s",
    }
    for name, words in details.items():
        colour = palette.on_colour if name == "FRESH" else palette.muted
        drawing.text(places[name] + width / 2, y + 48, words, anchor="middle", colour=colour, size=13)
    for (start, words), end in zip(
        (("FRESH", "due"), ("DUE", "30 s left"), ("EXPIRING", "expires")),
        ("DUE", "EXPIRING", "UNAVAILABLE"),
        strict=True,
    ):
        drawing.line(places[start] + width, y + 31, places[end] - 4, y + 31)
        drawing.text((places[start] + width + places[end]) / 2, y + 22, words, anchor="middle", size=13)
    for number, name in enumerate(("DUE", "EXPIRING", "UNAVAILABLE")):
        top = 82 - 24 * number
        x = places[name] + width / 2
        end = places["FRESH"] + 110 - 30 * number
        drawing.path(f"M{x} {y} V{top} H{end} V{y - 4}", colour=palette.blue)
    drawing.text(480, 26, "renewed", anchor="middle", colour=palette.blue, size=13)
    for name, words, x in (
        ("EXPIRED", "raises SessionExpired", places["UNAVAILABLE"]),
        ("CLOSED", "raises SessionClosed", 24),
    ):
        drawing.box(x, 270, width, height, palette.box, edge=palette.muted)
        drawing.text(x + width / 2, 297, name, anchor="middle", bold=True)
        drawing.text(x + width / 2, 318, words, anchor="middle", colour=palette.muted, size=12)
    late = places["UNAVAILABLE"]
    drawing.line(late + 120, y + height, late + 120, 266, colour=palette.red)
    drawing.text(late + 114, 250, "no way left", anchor="end", colour=palette.red, size=13)
    for name in ("DUE", "EXPIRING"):
        x = places[name] + width / 2
        drawing.line(x, y + height, x, 206, colour=palette.red, arrow=False)
    drawing.path(f"M99 {y + height} V206 H{late + 26} V{y + height + 4}", colour=palette.red)
    drawing.text(
        430, 222, "invalidate(), or the machine slept past the expiry", anchor="middle", colour=palette.red, size=13
    )
    drawing.path(f"M60 270 V244 H{late + 10} V{y + height + 4}")
    drawing.text(430, 260, "start(): no token yet", anchor="middle", size=13)
    drawing.line(late, 310, 24 + width + 4, 310)
    drawing.text(390, 302, "aclose(), from every state", anchor="middle", size=13)
    return drawing


PICTURES = {
    "life-of-a-pair": life_of_a_pair,
    "rotation": rotation,
    "lost-answer": lost_answer,
    "architecture": architecture,
    "states": states,
}


def files():
    """Return the text of each file by its name."""
    return {
        f"{name}{suffix}.svg": draw(palette).svg()
        for name, draw in PICTURES.items()
        for suffix, palette in (("", LIGHT), ("-dark", DARK))
    }


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
