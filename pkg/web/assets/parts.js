// Text from the cluster, such as names of Nodes, becomes text and attributes here, never markup.

const byId = (id) => document.getElementById(id);

// printable escapes characters that do not print or change the order of letters, so that a name
// looks like what it is.
function printable(value) {
  const spell = (c) => (c === "\n" ? "; " : "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
  return String(value ?? "").replace(/[\p{C}\p{Zl}\p{Zp}]/gu, spell);
}

// fill sets an element's attributes, handlers (functions) and children (nodes, text, or nothing).
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") {
      element.addEventListener(name, value);
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, printable(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) {
      element.append(child instanceof Node ? child : printable(child));
    }
  }
  return element;
}

const make = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const list = (value) => (Array.isArray(value) ? value : []);
const count = (n, one, many = one + "s") => n.toLocaleString("en") + " " + (n === 1 ? one : many);

// span returns a duration in words, like kubectl's ages.
function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return s + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

// since returns how long ago a time was; "" without a time.
function since(time, now) {
  const at = Date.parse(time);
  if (Number.isNaN(at)) return "";
  return now - at < 1500 ? "just now" : span((now - at) / 1000) + " ago";
}

// took returns a duration in nanoseconds in words.
function took(ns) {
  if (ns >= 1e9) return (ns / 1e9).toFixed(ns >= 1e10 ? 0 : 1) + " s";
  if (ns >= 1e6) return (ns / 1e6).toFixed(ns >= 1e7 ? 0 : 1) + " ms";
  return Math.round(ns / 1e3) + " µs";
}

// states are those of a peer, the worst first, with their classes.
const states = { failed: "bad", missing: "bad", conflict: "warn", refused: "warn", "off link": "warn", ok: "ok" };
const order = Object.keys(states);
const badness = (state) => states[state] ?? "bad"; // a state of a later version
const rank = (state) => (order.indexOf(state) + 1 || 1) - 1;
const badge = (state, kind = badness(state)) => make("span", { class: "state " + kind }, state);

// show opens a dialog. Escape closes it, and the focus returns to where it was.
function show(title, ...children) {
  const dialog = byId("detail");
  dialog.replaceChildren(
    make("h2", { id: "detail-title" }, title), ...children,
    make("form", { method: "dialog" }, make("button", {}, "Close")));
  dialog.showModal();
}

// terms returns names and values for a definition list, without those that lack a value.
const terms = (pairs) => pairs.filter(([, value]) => value !== undefined && value !== "" && value !== null)
  .map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);

// spread lists the first items openly and the others on demand, up to a maximum.
function spread(items, line, few = 5, most = 200) {
  const rows = items.slice(0, most).map((item) => make("li", {}, line(item)));
  const more = rows.splice(few);
  if (items.length > most) {
    more.push(make("li", {}, "and " + count(items.length - most, "more", "more")));
  }
  return [make("ul", {}, rows), more.length > 0 && make("details", { "data-key": line(items[0]) },
    make("summary", {}, count(items.length - few, "more", "more")), make("ul", {}, more))];
}

// problemBox shows problems of one kind: a title, a line for each, and the remediation.
const problemBox = (kind, title, items, line, remediation) => make("div", { class: "problem " + kind },
  make("h3", {}, title), spread(items, line), remediation && make("p", { class: "remediation" }, make("b", {}, "Remediation: "), remediation));

// steady replaces the content of an element only if it differs, so that selections stay, and opened
// details stay open.
function steady(element, ...children) {
  const open = new Set([...element.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const box = fill(element.cloneNode(false), {}, children);
  for (const d of box.querySelectorAll("details")) d.open = open.has(d.dataset.key);
  if (!box.isEqualNode(element)) element.replaceChildren(...box.childNodes);
}

// grouped collects items by key, in order of appearance.
function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const k = key(item);
    groups.has(k) ? groups.get(k).push(item) : groups.set(k, [item]);
  }
  return groups;
}

// cut shortens a text to a number of characters.
function cut(text, room) {
  const all = [...printable(text)];
  const n = Math.max(0, Math.floor(room));
  return all.length <= n ? all.join("") : n < 2 ? "" : all.slice(0, n - 1).join("") + "…";
}
