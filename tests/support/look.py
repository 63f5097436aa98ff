"""Looks at a page that a browser shows: whether each text is there, inside the page, and can be read."""

# WCAG 2.2, 1.4.3: the least contrast of a text that is not large.
CONTRAST = 4.5

# look(window) says what is there, as JSON.
LOOK = """
function channels(colour) { return colour.match(/[0-9.]+/g).map(Number); }
function light(colour) {
    const [r, g, b] = channels(colour).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
    for (let e = element; e; e = e.parentElement) {
        const colour = e.ownerDocument.defaultView.getComputedStyle(e).backgroundColor;
        if (channels(colour)[3] !== 0) return colour;
    }
    // What a browser paints below a page of this scheme.
    return matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)";
}
function look(view) {
    const page = view.document;
    const texts = [...page.body.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
        && !e.closest("[hidden]"));
    const one = e => {
        const box = e.getBoundingClientRect(), style = view.getComputedStyle(e);
        const [a, b] = [light(style.color), light(behind(e))].sort((a, b) => b - a);
        return { text: e.textContent.slice(0, 60), right: box.right, high: box.height, size: parseFloat(style.fontSize),
                 contrast: (a + 0.05) / (b + 0.05) };
    };
    return {
        dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
        width: page.documentElement.clientWidth, needed: page.documentElement.scrollWidth,
        rows: page.querySelectorAll(".row").length, texts: texts.map(one), words: page.body.innerText,
        from_elsewhere: [...page.querySelectorAll("[src], [href], script, link, iframe, img, object")].map(e => e.tagName),
    };
}
"""


def faults_of(at, dark):
    """Says what is wrong with what look() has seen."""
    if at["dark"] != dark:
        yield f"the browser shows it {'dark' if at['dark'] else 'light'}"
    if at["needed"] > at["width"]:
        yield f"it needs {at['needed']} pixels of {at['width']}"
    for one in at["texts"]:
        where = repr(one["text"])
        if one["high"] <= 0:
            yield f"{where} is not there"
        if one["right"] > at["width"] + 0.5:
            yield f"{where} ends at {one['right']}"
        if one["size"] < 12:
            yield f"{where} has {one['size']} pixels"
        if one["contrast"] < CONTRAST:
            yield f"{where} has a contrast of {one['contrast']:.1f}"
