// A page in Cockpit. All that it says of this host comes from gfxplane, as text: nothing of it becomes markup or a command.

const { cockpit } = window;

// What fixup may do only if the user says so.
const WISHES = {
    "--policy=full": "Switch displays on, and add the graphics that they need",
    "--trust-rules": "Also displays that are known only by a rule, because the device was not probed",
    remote: "Allow losing remote viewing",
    video: "Allow losing the emulated card",
};

// What the page remembers of each guest while it is drawn anew: whether it is open, the wishes, and what a button's command said.
const remembered = new Map();

function memory(id) {
    if (!remembered.has(id)) remembered.set(id, { open: false, wishes: new Set(), said: "" });
    return remembered.get(id);
}

function make(kind, name, ...children) {
    const element = document.createElement(kind);
    element.className = name;
    element.append(...children);
    return element;
}

// Runs gfxplane and returns what it prints. It prints an answer also with an exit code that is not 0: a guest would be refused.
function gfxplane(words, options) {
    return new Promise((resolve, reject) => {
        cockpit.spawn(["gfxplane", ...words], { superuser: "try", err: "message", ...options })
            .then(resolve, (problem, printed) => printed ? resolve(printed) : reject(problem));
    });
}

function why(problem) {
    switch (problem.problem) {
    case "access-denied":
        return "Nothing was done: you have limited access. Press “Limited access” at the top of Cockpit and enter your password.";
    case "not-found":
        return "This host has no program gfxplane: install the package gfxplane.";
    default:
        return cockpit.message(problem);
    }
}

// Fills a place of the page with what is read, or with why it can't be read. Of two readings the later counts.
async function fill(place, read) {
    place.setAttribute("aria-busy", "true");
    if (!place.hasChildNodes()) place.append("Reading …");
    place.reading = read;
    const content = await read().catch(problem => [make("p", "wrong", why(problem))]);
    if (place.reading !== read) return;
    place.replaceChildren(...content);
    place.removeAttribute("aria-busy");
}

// Copies from the tool's page of HTML: elements of these kinds with their class and text, and nothing else.
function copy(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return node.data ?? "";
    const kind = ["h1", "section", "div", "span", "code", "footer"].find(kind => kind === node.localName);
    return make(kind ?? "span", node.getAttribute("class") ?? "", ...Array.from(node.childNodes, copy));
}

async function overview() {
    // Without its head, which has a style.
    const [body] = /<body>.*<\/body>/s.exec(await gfxplane(["--html", "-"]));
    return Array.from(new DOMParser().parseFromString(body, "text/xml").documentElement.children, copy);
}

function verdict(word) {
    return make("span", `verdict ${word.toLowerCase()}`, word);
}

function because(text, reason) {
    return reason ? `${text}: ${reason}` : text;
}

function commands(fixes = []) {
    return fixes.map(fix => make("code", "", fix));
}

async function guests() {
    const { domains, summary } = JSON.parse(await gfxplane(["check", "--all", "--json"]));
    const without = `Guests without a vfio device: ${summary.skipped}.`;
    return [...domains.filter(one => one.verdict !== "SKIP").map(guest), make("p", "", without)];
}

function guest({ domain, uuid, error, verdict: worst = "FAIL", lines = [{ more: error.replace(`${domain}: `, "") }] }) {
    const id = uuid ?? domain;
    const [first, ...others] = lines;
    const fixup = make("div", "");
    const element = make(
        "details", "guest",
        make("summary", "", verdict(worst), " ", make("span", "name", domain), ` ${first.more}`),
        ...commands(first.fixes),
        ...others.map(({ verdict: word, what, more = "", fixes }) =>
            make("div", "row", verdict(word), " ", make("span", "name", what), ` ${more}`, ...commands(fixes))),
        fixup,
    );
    element.addEventListener("toggle", () => {
        memory(id).open = element.open;
        if (element.open && !fixup.hasChildNodes()) fill(fixup, () => repairs(id, fixup));
    });
    element.open = memory(id).open;
    return element;
}

// Returns what fixup would change in a guest, what undo would put back, and the buttons that do it.
async function repairs(id, place) {
    const { wishes, said } = memory(id);
    const options = [...wishes].filter(wish => wish.startsWith("--"));
    const consent = [...wishes].filter(wish => !wish.startsWith("--")).join();
    const words = ["fixup", ...options, ...(consent ? ["--consent", consent] : [])];
    const plan = async () => JSON.parse(await gfxplane([...words, "--json", "--", id]));
    const undo = () => gfxplane(["undo", "--print-diff", "--", id]).catch(() => "");
    const [{ diff = "", changes = [], notes = [] }, before] = [await plan(), await undo()];
    const choices = Object.entries(WISHES).map(([wish, text]) => {
        const box = make("input", "");
        box.type = "checkbox";
        box.checked = wishes.has(wish);
        box.addEventListener("change", () => {
            if (!wishes.delete(wish)) wishes.add(wish);
            fill(place, () => repairs(id, place));
        });
        return make("label", "", box, ` ${text}`);
    });
    return [
        make("p", "said", said),
        make("p", "name", "Options:"),
        ...choices,
        ...(diff ? [] : [make("p", "", "With these choices fixup would change nothing.")]),
        ...changes.map(({ change, reason }) => make("p", "", because(change, reason))),
        // The others say of the guest as it is what check has said.
        ...notes.filter(({ level, consent }) => consent || level === "fail").map(({ text }) => make("p", "", text)),
        ...offer(id, "Apply", "What would be changed:", diff, async () => (await plan()).diff, [...words, "--define"]),
        ...offer(id, "Undo", "What gfxplane has changed can be put back:", before, undo, ["undo"]),
    ];
}

// Returns a difference and a button that makes it, if the guest has not changed since it was shown.
function offer(id, label, headline, diff, again, words) {
    if (!diff) return [];
    const colour = { "+": "added", "-": "removed" };
    const button = make("button", "", label);
    button.type = "button";
    button.addEventListener("click", async () => {
        button.disabled = true;
        button.textContent = `${label} …`;
        let said = "Nothing was done: the guest has changed meanwhile. Look at the new difference first.";
        try {
            if (await again() === diff)
                said = await gfxplane([...words, "--", id], { superuser: "require", err: "out" });
        } catch (problem) {
            said = why(problem);
        }
        memory(id).said = said.replaceAll(/^gfxplane: /gm, "");
        show();
    });
    const lines = diff.trimEnd().split("\n").map(line => make("span", colour[line[0]] ?? "", `${line}\n`));
    return [make("p", "name", headline), make("pre", "", ...lines), button];
}

async function log() {
    const { entries } = JSON.parse(await gfxplane(["log", "--json", "--number", "50"]));
    if (entries.length === 0) return [make("p", "", "gfxplane has changed nothing.")];
    return entries.reverse().map(({ when, domain, what, by, reason, changes = [] }) => make(
        "div", "row",
        make("time", "", new Date(when).toLocaleString()), " ", make("span", "name", domain),
        because(` ${what} (${by})`, reason),
        ...changes.map(({ change, reason }) => make("div", "problem", because(change, reason))),
    ));
}

function show() {
    fill(document.getElementById("overview"), overview);
    fill(document.getElementById("guests"), guests);
    fill(document.getElementById("log"), log);
}

// The theme that the user has chosen in Cockpit's menu, or else the browser's.
function theme() {
    const style = localStorage.getItem("shell:style");
    document.documentElement.style.colorScheme = ["light", "dark"].includes(style) ? style : "light dark";
}

theme();
addEventListener("storage", theme);
const admin = cockpit.permission({ admin: true });
admin.addEventListener("changed", () => {
    document.getElementById("rights").hidden = admin.allowed !== false;
});
document.getElementById("reload").addEventListener("click", show);
show();
