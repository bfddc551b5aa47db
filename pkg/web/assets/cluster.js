// The page of a cluster: the reports of all agents.

let cellList = [];
let seen = { nodes: [], problems: [], between: [] };
let now = Date.now();

// kinds has the class of each symbol, severity a number to compare them.
const kinds = { "=": "ok", c: "warn", g: "warn", r: "warn", m: "bad", f: "bad", "!": "bad", "?": "dim", "-": "none", ".": "none" };
const severity = { "-": 0, ".": 1, "=": 2, "?": 3, c: 4, g: 4, r: 4, m: 5, f: 5, "!": 5 };
const cellKind = (symbol) => kinds[symbol] ?? "bad";
const cellWords = (symbol) => cellList.find((c) => c.symbol === symbol)?.words ?? "unknown";
// short is the meaning of a symbol without details.
const short = (symbol) => cellWords(symbol).split(":")[0];
const nodePath = (name) => "/nodes/" + encodeURIComponent(name);

// conditions are the states of a node, the worst first.
const conditions = ["no answer", "not ready", "problems", "fine", "not managed"];
function wordOf(n) {
  if (n.noReport) return n.noReport === "NotManaged" ? "not managed" : "no answer";
  return !n.ready ? "not ready" : n.well ? "fine" : "problems";
}
const conditionKind = (word) => ({ fine: "ok", problems: "warn", "not managed": "dim" }[word] ?? "bad");
const kindOf = (n) => conditionKind(wordOf(n));

// about returns the rows of a node's report about a peer that is not ok.
const about = (a, b) => list(a.bad).filter((p) => p.node === b.name);

function pairWords(a, b) {
  const symbol = a.routes[b.index];
  if (symbol === ".") return `${a.name}: the node itself`;
  const detail = about(a, b).map((p) => p.message).filter(Boolean).join("; ");
  return `${a.name} to ${b.name}: ${cellWords(symbol)}${detail ? ": " + detail : symbol === "?" && a.message ? ": " + a.message : ""}`;
}

function pairTerms(a, b) {
  const route = (from, to) => {
    const symbol = from.routes[to.index];
    return [make("span", { class: "state " + (cellKind(symbol) === "none" ? "dim" : cellKind(symbol)) }, cellWords(symbol)),
      about(from, to).map((p) => make("div", {}, `${p.state}: ${p.message}`)), symbol === "?" && make("div", {}, from.message)];
  };
  return make("dl", {}, terms([
    ["From", make("a", { href: nodePath(a.name) }, a.name)],
    ["To", make("a", { href: nodePath(b.name) }, b.name)],
    ["Its pod subnets", list(b.subnets).join(", ")],
    ["Route there", route(a, b)],
    ["Route back", a.index !== b.index && route(b, a)],
  ]));
}

const ring = new Ring(byId("ring"), byId("ring-words"));
const matrix = new Matrix(byId("matrix"), byId("matrix-cell"));

const nodes = new Table(byId("nodes"), {
  title: "All nodes", noun: ["node", "nodes"], placeholder: "Filter by name, address, version", sort: "state",
  key: (n) => n.name, state: wordOf, kind: conditionKind, order: (word) => conditions.indexOf(word),
  text: (n) => [n.name, ...list(n.subnets), ...list(n.addresses), n.version, wordOf(n), n.noReport, n.message].join(" "),
  columns: [
    { key: "state", label: "State", width: "130px", place: "side", value: (n) => conditions.indexOf(wordOf(n)), cell: (n) => badge(wordOf(n), kindOf(n)) },
    { key: "node", label: "Node", width: "180px", place: "top", value: (n) => n.name, cell: (n) => make("a", { href: nodePath(n.name) }, n.name) },
    { key: "peers", label: "Peers ok", width: "110px", place: "under", value: (n) => (n.count.peers ? n.count.ok / n.count.peers : -1), cell: (n) => (n.noReport ? "" : `${n.count.ok} of ${n.count.peers}`) },
    { key: "problems", label: "Problems", width: "110px", value: (n) => -n.count.problems, cell: (n) => (n.noReport ? "" : String(n.count.problems)) },
    { key: "drift", label: "Drift", width: "80px", value: (n) => -n.count.drift, cell: (n) => (n.noReport ? "" : String(n.count.drift)) },
    { key: "version", label: "Version", width: "120px", value: (n) => n.version ?? "", cell: (n) => n.version ?? "" },
    { key: "started", label: "Agent since", width: "125px", value: (n) => -Date.parse(n.started) || 0, cell: (n) => since(n.started, now) },
    { key: "subnets", label: "Subnets", width: "auto", place: "last", value: (n) => list(n.subnets)[0] ?? "", cell: (n) => n.message || list(n.subnets).join(", ") },
  ],
});

const symbolOf = (state) => cellList.find((c) => short(c.symbol) === state)?.symbol;

const pairs = new Table(byId("pairs"), {
  title: "Pairs without a good route", noun: ["pair", "pairs"], placeholder: "Filter by node, reason", sort: "how",
  key: (p) => p.from.name + " " + p.to.name, state: (p) => short(p.symbol), kind: (state) => cellKind(symbolOf(state)), order: (state) => -severity[symbolOf(state)],
  text: (p) => [p.from.name, p.to.name, p.words, p.why].join(" "),
  columns: [
    { key: "how", label: "State", width: "210px", place: "under", value: (p) => -severity[p.symbol], cell: (p) => badge(short(p.symbol), cellKind(p.symbol)) },
    { key: "from", label: "From", width: "180px", place: "top", value: (p) => p.from.name, cell: (p) => make("button", { type: "button", click: () => show(`${p.from.name} to ${p.to.name}`, pairTerms(p.from, p.to)) }, p.from.name) },
    { key: "to", label: "To", width: "180px", place: "side", value: (p) => p.to.name, cell: (p) => p.to.name },
    { key: "why", label: "Why", width: "auto", place: "last", value: (p) => p.why, cell: (p) => p.why },
  ],
});

// faulty returns the pairs without a good route, limited in number because a page can't hold 25
// million.
function faulty(most = 20000) {
  const all = [];
  const bad = new Set(cellList.filter((c) => c.bad).map((c) => c.symbol));
  for (const from of seen.nodes) {
    for (let to = 0; to < from.routes.length && all.length < most; to++) {
      const symbol = from.routes[to];
      if (!bad.has(symbol)) continue;
      const why = about(from, seen.nodes[to]).map((p) => p.message).join("; ");
      all.push({ from, to: seen.nodes[to], symbol, words: cellWords(symbol), why });
    }
  }
  return all;
}

const some = (names) => (names.length <= 3 ? names.join(", ") : `${names.slice(0, 3).join(", ")} and ${count(names.length - 3, "more", "more")}`);

function showProblems() {
  const most = 30;
  const bad = new Set(seen.nodes.filter((n) => kindOf(n) === "bad").map((n) => n.name));
  const all = [...grouped(list(seen.problems), (g) => g.remediation ?? g.reason).values()]
    .map((groups) => ({ groups, nodes: [...new Set(groups.flatMap((g) => list(g.nodes)))] }))
    .map((box) => ({ ...box, kind: box.nodes.some((name) => bad.has(name)) ? "bad" : "warn" }))
    .sort((a, b) => (b.kind === "bad") - (a.kind === "bad") || b.nodes.length - a.nodes.length);
  const line = (g) => (g.subject?.node ? `node ${g.subject.node}: ` : "") + `${g.reason}: ${g.message}`;
  const found = all.slice(0, most).map(({ groups, nodes: names, kind }) => problemBox(kind, some(names), groups,
    (g) => (list(g.nodes).length < names.length ? some(g.nodes) + ": " : "") + line(g), groups[0].remediation));
  if (all.length > most) found.push(make("p", { class: "soft" }, `And ${count(all.length - most, "more", "more")}, in the tables below.`));
  for (const [, groups] of grouped(list(seen.between), (g) => g.reason)) {
    const info = groups[0].severity === "Info";
    found.push(problemBox(info ? "dim" : "warn", info ? "For your notice" : "Between nodes", groups, (g) => g.message, groups[0].remediation));
  }
  steady(byId("problems"), found.length > 0 ? found : make("p", { class: "ok" }, "✓ No problems."));
}

function showHead() {
  const counts = grouped(seen.nodes, wordOf);
  const bad = seen.nodes.filter((n) => !n.well).length;
  const answers = seen.nodes.filter((n) => !n.noReport).length;
  const verdict = bad > 0 ? `something is wrong on ${count(bad, "node")}` : seen.well ? "all is well" : "something is wrong between nodes";
  document.title = `${seen.well ? "" : "! "}plainroute: ${verdict}`;
  steady(byId("verdict"), make("span", { class: "pill " + (seen.well ? "ok" : counts.has("not ready") || counts.has("no answer") ? "bad" : "warn") }, (seen.well ? "✓ " : "✕ ") + verdict),
    make("span", { class: "soft" }, ` ${count(seen.nodes.length, "node")}, ${count(answers, "agent")} answered`));
}

function showAll() {
  seen.nodes.forEach((n, i) => { n.index = i; });
  cellList = list(seen.cells);
  const routes = faulty();
  showHead();
  showProblems();
  ring.update(seen.nodes, routes);
  matrix.update(seen.nodes);
  nodes.update(seen.nodes);
  pairs.update(routes);
}

let drawn = 0;

follow("/?format=json", 5000, "The dashboard", (data) => {
  now = Date.now();
  if (!data) return drawn ? undefined : 300;
  const { number, done, all, every, error } = data;
  byId("failure").hidden = !error;
  steady(byId("failure"), error ? `The fleet status is not available: ${error}` + (data.seen ? ` The data shown is of ${new Date(data.seen.time).toLocaleTimeString()}.` : "") : "");
  for (const section of document.querySelectorAll("section")) section.hidden = !data.seen;
  if (!data.seen) {
    byId("loading").hidden = Boolean(error);
    byId("loading").textContent = `Querying all agents …${all ? ` ${done} of ${all}` : ""}`;
    return error ? every : 300;
  }
  if (number !== drawn) {
    [seen, drawn] = [data.seen, number];
    showAll();
  }
  byId("pairs").hidden = pairs.empty;
  return every;
});
