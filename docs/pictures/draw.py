"""Draw the pictures of the pages, each for light and for dark backgrounds: `python docs/pictures/draw.py`."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
WIDTH = 850  # pixels: about as wide as hosts of repositories show a README
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
ACCESS, REFRESH = 120, 125  # minutes for which the tokens of a pair are valid
DUE = (72, 96)  # minutes after which a session renews: 60 to 80 % of the access token's lifetime


@dataclass(frozen=True)
class Palette:
    """The colours of one variant. White text stands on `blue_fill` and `violet_fill`; the others are for lines."""

    text: str
    muted: str
    line: str
    box: str
    blue: str
    blue_fill: str
    violet_fill: str
    amber: str
    red: str
    background: str


WHITE = "#ffffff"
LIGHT = Palette(
    text="#1d2633",
    muted="#4a5361",
    line="#8a94a3",
    box="#f3f5f8",
    blue="#2468c0",
    blue_fill="#2468c0",
    violet_fill="#6a4bc0",
    amber="#fff0c7",
    red="#b93a30",
    background="#ffffff",
)
DARK = Palette(
    text="#e6edf3",
    muted="#aab4c0",
    line="#6e7a88",
    box="#1c232c",
    blue="#58a6ff",
    blue_fill="#2563b8",
    violet_fill="#7356c8",
    amber="#4a3d12",
    red="#f0716a",
    background="#0d1117",
)


@dataclass
class Drawing:
    """An SVG in the making."""

    height: int
    title: str
    description: str
    palette: Palette
    parts: list[str] = field(default_factory=list)

    def text(self, x, y, words, *, colour=None, anchor="start", bold=False, size=14, over_line=False):
        """Draw a text. `over_line` hides what is drawn behind it."""
        weight = ' font-weight="600"' if bold else ""
        halo = f' stroke="{self.palette.background}" stroke-width="6" paint-order="stroke"' if over_line else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour or self.palette.text}" font-size="{size}"'
            f' text-anchor="{anchor}"{weight}{halo}>{escape(words)}</text>'
        )

    def box(self, x, y, width, height, colour, *, edge=None, dashed=False):
        stroke = f' stroke="{edge}" stroke-width="1.5"' if edge else ""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colour}"{stroke}{dash}/>'
        )

    def line(self, x1, y1, x2, y2, *, colour=None, arrow=True, dashed=False):
        colour = colour or self.palette.muted
        mark = f' marker-end="url(#{self.tip(colour)})"' if arrow else ""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="1.6"{mark}{dash}/>'
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
            f'<marker id="{name}" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto"'
            f' markerUnits="userSpaceOnUse"><path d="M0 0 L9 4 L0 8 z" fill="{colour}"/></marker>'
        )
        if definition not in self.parts:
            self.parts.insert(0, definition)
        return name

    def svg(self):
        body = "\n  ".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img"'
            f" aria-labelledby=\"title description\" font-family='{FONT}'>\n"
            f'  <title id="title">{escape(self.title)}</title>\n'
            f'  <desc id="description">{escape(self.description)}</desc>\n'
            f'  <rect width="{WIDTH}" height="{self.height}" rx="8" fill="{self.palette.background}"/>\n'
            f"  {body}\n</svg>\n"
        )


def life_of_a_pair(palette):
    """Draw how long both tokens of a pair are valid, to scale."""
    drawing = Drawing(
        270,
        "The life of a pair of tokens, to scale",
        "An access token is valid for 120 minutes, its refresh token for 125. The session renews both at a random "
        "moment between minutes 72 and 96, and the next pair begins there.",
        palette,
    )
    left, scale, row = 24, 3.8, 34  # pixels: of minute 0, of a minute, of a bar
    middle = sum(DUE) / 2

    def at(minute):
        return left + scale * minute

    def bar(minute, y, minutes, colour, words):
        drawing.box(at(minute), y, scale * minutes, row, colour)
        drawing.text(at(minute) + 12, y + 22, words, colour=WHITE)

    def mark(minute, words, anchor):
        drawing.text(at(minute), 263, words, colour=palette.muted, anchor=anchor, size=13)

    drawing.box(at(DUE[0]), 34, scale * (DUE[1] - DUE[0]), 212, palette.amber)
    drawing.text(at(middle), 22, "the session renews at a random moment", anchor="middle", bold=True)
    drawing.text(left, 22, "issued", colour=palette.muted)
    for minute in (ACCESS, REFRESH):
        drawing.line(at(minute), 44, at(minute), 246, colour=palette.line, arrow=False, dashed=True)
    bar(0, 44, ACCESS, palette.blue_fill, "access token: 2 h")
    bar(0, 84, REFRESH, palette.violet_fill, "refresh token: 2 h 5 min")
    drawing.line(at(middle), 120, at(middle), 142, colour=palette.text)
    bar(middle, 146, ACCESS, palette.blue_fill, "next access token: 2 h")
    bar(middle, 186, REFRESH, palette.violet_fill, "next refresh token: 2 h 5 min")
    mark(0, "0 min", "start")
    mark(DUE[0], f"{DUE[0]} min", "middle")
    mark(DUE[1], f"{DUE[1]} min", "middle")
    mark(ACCESS, f"{ACCESS}", "end")
    mark(REFRESH, f"{REFRESH} min", "start")
    return drawing


def sequence(drawing, names):
    """Draw the lines of a sequence diagram, and return the place of each."""
    step = WIDTH / len(names)
    places = {name: step * (number + 0.5) for number, name in enumerate(names)}
    for name, x in places.items():
        drawing.line(x, 48, x, drawing.height - 12, colour=drawing.palette.line, arrow=False)
        drawing.box(x - 75, 12, 150, 36, drawing.palette.box, edge=drawing.palette.line)
        drawing.text(x, 35, name, anchor="middle", bold=True)
    return places


def message(drawing, places, y, ends, words):
    """Draw a message from one line to another."""
    x1, x2 = (places[end] for end in ends)
    drawing.text((x1 + x2) / 2, y - 7, words, anchor="middle", size=13, over_line=True)
    drawing.line(x1, y, x2, y)


def note(drawing, x, y, *lines):
    """Draw a note on a line of a sequence diagram."""
    drawing.box(x - 160, y, 320, 12 + 19 * len(lines), drawing.palette.amber)
    for number, words in enumerate(lines):
        drawing.text(x, y + 20 + 19 * number, words, anchor="middle", size=13)


def rotation(palette):
    """Draw a renewal with a store, in order: see the steps in `signalwire_tokens/keeper/shared.py`."""
    drawing = Drawing(
        484,
        "A rotation, with a store",
        "Your app gets the current token at once. When the token is due, the session takes the store's lease and reads "
        "the pair, marks the refresh token, and uses it at SignalWire. It saves the new pair, releases the lease, and "
        "passes the pair to events, rotations() and waiting callers. The next call of token() returns the new token.",
        palette,
    )
    app, session, store, service = names = ("your app", "session", "store", "SignalWire")
    places = sequence(drawing, names)
    message(drawing, places, 82, (app, session), "await session.token()")
    message(drawing, places, 116, (session, app), "the current token, at once")
    note(drawing, places[session], 132, "The token is due: the session renews it.")
    message(drawing, places, 194, (session, store), "take the lease, read the pair")
    message(drawing, places, 228, (session, store), "mark the refresh token")
    message(drawing, places, 262, (session, service), "use the refresh token")
    message(drawing, places, 296, (service, session), "a new pair")
    message(drawing, places, 330, (session, store), "save the new pair")
    message(drawing, places, 364, (session, store), "release the lease")
    message(drawing, places, 398, (session, app), "event rotated, rotations()")
    message(drawing, places, 432, (app, session), "await session.token()")
    message(drawing, places, 466, (session, app), "the new token, at once")
    return drawing


def lost_answer(palette):
    """Draw what a session does when the answer to a refresh is lost."""
    drawing = Drawing(
        448,
        "A lost answer",
        "The session uses the refresh token, and SignalWire's answer is lost. The refresh token may be used up, so the "
        "session doesn't present it again. Meanwhile, token() returns the current token, which is still valid. After "
        "half a second to a second, the session issues a new pair with the API token.",
        palette,
    )
    app, session, service = names = ("your app", "session", "SignalWire")
    places = sequence(drawing, names)
    message(drawing, places, 82, (session, service), "use the refresh token")
    x1, x2 = places[session], places[service]
    broken = (x1 + x2) / 2 - 30
    drawing.text(x2 - 12, 113, "the new pair is lost", anchor="end", colour=palette.red, size=13)
    drawing.line(x2, 120, broken + 12, 120, colour=palette.red)
    drawing.text(broken, 126, "✕", anchor="middle", colour=palette.red, bold=True, size=18)
    note(drawing, x1, 140, "The refresh token may be used up:", "the session doesn't present it again.")
    message(drawing, places, 218, (session, app), "event degraded")
    message(drawing, places, 252, (app, session), "await session.token()")
    message(drawing, places, 286, (session, app), "the current token, at once")
    note(drawing, x1, 302, "0.5 to 1 s later")
    message(drawing, places, 362, (session, service), "issue a pair with the API token")
    message(drawing, places, 396, (service, session), "a new pair")
    message(drawing, places, 430, (session, app), "events reissued and recovered")
    return drawing


def architecture(palette):
    """Draw what talks to what, and which secret is where."""
    drawing = Drawing(
        412,
        "Your app, its sessions, SignalWire, a store and browsers",
        "Your backend holds the API token and the encryption key. In it, your app and TokenBackend ask a session or "
        "fleet for tokens. The session keeps encrypted pairs in a store, SQLite or Redis. Its TokenClient sends the "
        "API token to SignalWire. Browsers get access tokens only, from TokenBackend. They send them to SignalWire, as "
        "your app may.",
        palette,
    )

    def node(x, y, name, *details, width=150, height=62):
        drawing.box(x, y, width, height, palette.box, edge=palette.line)
        top = y + height / 2 - 9 * len(details) + 5
        drawing.text(x + width / 2, top, name, anchor="middle", bold=True)
        for number, line in enumerate(details):
            drawing.text(x + width / 2, top + 20 + 18 * number, line, anchor="middle", colour=palette.muted, size=13)

    drawing.box(16, 60, 584, 206, "none", edge=palette.line, dashed=True)
    drawing.text(404, 198, "your backend", bold=True)
    drawing.text(404, 219, "has the API token", colour=palette.red, size=13)
    drawing.text(404, 238, "and the encryption key", colour=palette.red, size=13)
    node(34, 82, "your app", "awaits token()")
    node(232, 82, "session or fleet", "keeps tokens valid")
    node(430, 82, "TokenClient", "sends requests")
    node(34, 184, "TokenBackend", "token endpoint")
    node(34, 310, "browser", "access tokens only")
    node(232, 310, "store", "SQLite or Redis")
    node(690, 82, "SignalWire", "Fabric API", "realtime gateway", width=144, height=164)
    drawing.line(184, 113, 230, 113)
    drawing.line(382, 113, 428, 113)
    drawing.path("M184 215 H282 V146")
    drawing.line(332, 144, 332, 308)
    drawing.text(342, 294, "encrypted pairs", colour=palette.muted, size=13)
    drawing.line(580, 113, 688, 113, colour=palette.red)
    drawing.text(645, 104, "API token", anchor="middle", colour=palette.red, size=13)
    drawing.line(109, 246, 109, 308, colour=palette.blue)
    drawing.text(119, 294, "access token", colour=palette.blue, size=13)
    drawing.path("M109 372 V396 H762 V248", colour=palette.blue)
    drawing.text(435, 388, "access token: calls and meetings", anchor="middle", colour=palette.blue, size=13)
    drawing.path("M109 82 V36 H762 V80", colour=palette.blue)
    drawing.text(435, 28, "access token: requests as the subscriber", anchor="middle", colour=palette.blue, size=13)
    return drawing


def states(palette):
    """Draw the states of a session, and what leads from one to another."""
    drawing = Drawing(
        350,
        "The states of a session",
        "A session goes from FRESH to DUE, EXPIRING and UNAVAILABLE. A renewal leads back to FRESH. invalidate(), or a "
        "sleep of the machine past the expiry, leads to UNAVAILABLE. If no way to renew is left, UNAVAILABLE leads to "
        "EXPIRED. start() leads from CLOSED to UNAVAILABLE until there is a token, and aclose() leads to CLOSED.",
        palette,
    )
    width, height, y = 150, 62, 110
    places = {name: 24 + number * 217 for number, name in enumerate(("FRESH", "DUE", "EXPIRING", "UNAVAILABLE"))}
    for name, x in places.items():
        colour = {"FRESH": palette.blue_fill, "UNAVAILABLE": palette.box}.get(name, palette.amber)
        edge = {"UNAVAILABLE": palette.red}.get(name, palette.line)
        drawing.box(x, y, width, height, colour, edge=edge)
        drawing.text(
            x + width / 2,
            y + 27,
            name,
            anchor="middle",
            bold=True,
            colour=WHITE if name == "FRESH" else None,
        )
    details = {
        "FRESH": "returns it at once",
        "DUE": "returns it at once",
        "EXPIRING": "waits, then returns",
        "UNAVAILABLE": "waits up to 10 s",
    }
    for name, words in details.items():
        colour = WHITE if name == "FRESH" else palette.muted
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
        ("EXPIRED", "raises SessionExpired", places["UNAVAILABLE"] - 14),
        ("CLOSED", "raises SessionClosed", 24),
    ):
        drawing.box(x, 270, width + 14, height, palette.box, edge=palette.muted)
        drawing.text(x + width / 2 + 7, 297, name, anchor="middle", bold=True)
        drawing.text(x + width / 2 + 7, 318, words, anchor="middle", colour=palette.muted, size=13)
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
    drawing.line(late - 14, 310, 24 + width + 18, 310)
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
