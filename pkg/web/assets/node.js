// The page of a node: its agent's report.

const picture = new Picture(byId("picture"));
let report = {};
let now = Date.now();

const peers = new Table(byId("peers"), {
  title: "Peers", noun: ["peer", "peers"], placeholder: "Filter by name, address, reason", sort: "state",
  key: (p) => p.node + " " + p.subnet,
  state: (p) => p.state,
  kind: badness,
  order: rank,
  text: (p) => [p.node, p.subnet, p.via, p.dev, pathWords(p), p.state, p.message, ...list(p.reasons)].join(" "),
  columns: [
    { key: "state", label: "State", width: "110px", place: "side", value: (p) => rank(p.state), cell: (p) => badge(p.state) },
    { key: "node", label: "Node", width: "150px", place: "top", value: (p) => p.node, cell: (p) => make("button", { type: "button", click: () => details(p) }, p.node) },
    { key: "subnet", label: "Subnet", width: "165px", place: "under", value: (p) => p.subnet, cell: (p) => p.subnet },
    { key: "via", label: "Next hop", width: "205px", value: (p) => p.via, cell: (p) => (p.via ? p.via + (p.dev ? " " + p.dev : "") : "") },
    { key: "path", label: "Path", width: "100px", value: (p) => pathWords(p), cell: (p) => make("span", { title: pathWords(p) }, p.path) },
    { key: "since", label: "Since", width: "115px", value: (p) => -Date.parse(p.since) || 0, cell: (p) => since(p.since, now) },
    { key: "repaired", label: "Repaired", width: "115px", value: (p) => -Date.parse(p.repaired) || 0, cell: (p) => since(p.repaired, now) },
    { key: "why", label: "Why", width: "auto", place: "last", value: (p) => p.message ?? "", cell: (p) => why(p) },
  ],
});

// pathWords describes how packets get to a peer: "tunnel to 192.168.2.13 by default via 192.168.1.1 dev eth0".
const pathWords = (p) => [p.path, p.path !== "direct" && p.internalIP && `to ${p.internalIP}`, p.by && `by ${p.by}`].filter(Boolean).join(" ");

const why = (p) => (p.message ? [...list(p.reasons), p.message].join(": ") : "");

// remediations returns those of the problems that the peer's reasons name.
const remediations = (p) => [...new Set(list(report.problems).filter((q) => q.subject?.node === p.node && list(p.reasons).includes(q.reason)).map((q) => q.remediation))].join(" ");

// details shows the details of a peer.
function details(p) {
  show(p.node, make("dl", {}, terms([
    ["State", badge(p.state)],
    ["Subnet", p.subnet],
    ["Next hop", p.via && `${p.via} dev ${p.dev}`],
    ["Path", pathWords(p)],
    ["Why", why(p)],
    ["Remediation", remediations(p)],
    ["Since", when(p.since)],
    ["Last repair", when(p.repaired)],
  ])));
}

const when = (time) => (time ? `${new Date(time).toLocaleString()} (${since(time, now)})` : "");

function showHead() {
  document.title = `${printable(report.node)} – plainroute`;
  steady(byId("version"), `plainroute ${report.version ?? ""}`);
  steady(byId("name"), report.node ?? "");
  const well = report.ready && problemGroups().length === 0 && !report.api?.error;
  steady(byId("ready"), make("span", { class: "pill " + (well ? "ok" : report.ready ? "warn" : "bad") },
    well ? "✓ Ready" : report.ready ? "! Ready, with problems" : "✕ Not ready"));
}

// problemGroups returns the problems by reason, first those that keep the node from being ready.
function problemGroups() {
  const groups = [...grouped(list(report.problems), (p) => `${p.blocksReady ? 0 : 1} ${p.reason}`).values()];
  return groups.sort((a, b) => Boolean(b[0].blocksReady) - Boolean(a[0].blocksReady) || b.length - a.length);
}

function showProblems() {
  const groups = problemGroups();
  const found = groups.map((group) => problemBox(group[0].blocksReady ? "bad" : "warn",
    group[0].reason + (group[0].blocksReady ? " – this node's pods are affected" : group.length > 1 ? ` – ${count(group.length, "time")}` : ""),
    group, (p) => (p.subject?.node ? `${p.subject.node}: ` : "") + p.message, group[0].remediation));
  const lost = list(report.peers).filter((p) => p.state === "missing");
  if (lost.length > 0) {
    found.splice(groups.filter((g) => g[0].blocksReady).length, 0, problemBox("bad", `Missing routes – ${count(lost.length, "peer")}`, lost, (p) => `${p.node}: ${p.message ?? p.subnet}`,
      "Wait a few seconds: the agent restores routes. If they stay missing, look for Contested or RouteFailed here, and at the agent's log."));
  }
  if (report.api?.error) {
    found.push(problemBox("warn", "Requests to the API server fail", [report.api.error], (text) => text,
      "All routes stay unchanged meanwhile. Check the API server, and the network between it and this node."));
  }
  steady(byId("problems"), found.length > 0 ? found : make("p", { class: "ok" }, "✓ No problems."));
}

function showHost() {
  const { host = {}, api = {} } = report;
  const conditions = list(report.conditions);
  const holding = conditions.filter((c) => c.status === "True");
  steady(byId("host"), terms([
    ["Addresses", lines(host.addresses)],
    ["Pod subnets", host.router ? "none (router)" : lines(host.subnets)],
    ["Uplinks", lines(list(host.uplinks).map((u) => `${u.name}, MTU ${u.mtu}`))],
    ["Bridge", host.bridge && `${host.bridge}, ${count(host.ports ?? 0, "port")}`],
    ["Pods' MTU", host.mtu ? String(host.mtu) : host.router ? "" : "no CNI config yet"],
    ["Encapsulation", host.encapsulation],
    ["CNI config", host.config && make("span", { class: "code" }, host.config)],
    ["API server", api.lastEvent ? `last event ${since(api.lastEvent, now)}` : api.synced ? "listed" : "no event yet"],
    ["Conditions", [`${holding.length} of ${conditions.length} hold`, conditions.length > holding.length && make("ul", {},
      conditions.filter((c) => c.status !== "True").map((c) => make("li", { class: c.status === "False" ? "bad" : "dim" }, `${c.name}: ${c.message || c.status.toLowerCase()}`)))]],
  ]));
}

const lines = (values) => (list(values).length > 0 ? list(values).map((v) => make("div", {}, v)) : "none");

function showDrift() {
  const drift = report.drift ?? {};
  const differences = list(drift.differences);
  const compared = drift.time ? `compared ${since(drift.time, now)}` : "not compared yet";
  steady(byId("drift"), drift.error ? make("p", { class: "bad" }, `They can't be read: ${drift.error}`)
    : differences.length === 0 ? make("p", { class: drift.time ? "ok" : "soft" }, drift.time ? "✓ As desired" : "", make("span", { class: "soft" }, (drift.time ? ", " : "") + compared + "."))
      : [...grouped(differences, (d) => d.reason)].map(([reason, group]) => problemBox("bad", `${reason} – ${group.length}`, group, (d) => make("code", {}, d.message)))
        .concat(make("p", { class: "soft" }, compared)));
}

// showPasses draws the durations of passes, the newest on the right. Passes that changed something
// are filled.
function showPasses() {
  const passes = list(report.passes).slice().reverse();
  const [width, height, base] = [Math.min(560, Math.max(240, byId("passes").clientWidth)), 110, 92];
  if (passes.length === 0) {
    steady(byId("passes"), make("p", { class: "soft" }, "None yet."));
    return;
  }
  const longest = Math.max(...passes.map((p) => p.durationNanoseconds), 1);
  const step = Math.min(24, (width - 4) / passes.length);
  const right = Math.max(150, passes.length * step);
  const bars = passes.map((p, i) => {
    const tall = Math.max(2, (base - 18) * p.durationNanoseconds / longest);
    return draw("rect", { class: "bar " + (p.changes > 0 ? "changed" : "idle"), x: 2 + i * step, y: base - tall, width: Math.max(2, step - 3), height: tall, rx: 1.5 },
      draw("title", {}, `Pass ${p.number}, ${since(p.time, now)}: ${took(p.durationNanoseconds)}, ${count(p.changes, "change")}`));
  });
  const last = passes.at(-1);
  const words = `The last took ${took(last.durationNanoseconds)}, ${since(last.time, now)}, and made ${count(last.changes, "change")}`;
  steady(byId("passes"), make("p", {}, words + "."),
    draw("svg", { class: "chart", height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Durations of the last ${passes.length} passes: ${passes.map((p) => took(p.durationNanoseconds)).join(", ")}` },
      draw("path", { class: "axis", d: `M0 ${base + .5}H${right}M0 17.5H${right}` }),
      draw("text", { class: "soft", x: 2, y: 12 }, took(longest)), bars,
      draw("text", { class: "soft", x: 2, y: height - 3 }, since(passes[0].time, now)),
      draw("text", { class: "soft end", x: right, y: height - 3 }, "last")),
    make("p", { class: "soft" }, make("span", { class: "key changed" }), " changed something ", make("span", { class: "key idle" }), " nothing to change"));
}

follow(location.pathname + "?format=json&brief=true", 5000, "The agent", (data, headers) => {
  now = Date.parse(headers.get("Date")) || Date.now();
  if (data) {
    report = data;
    now = Date.parse(report.drift?.time) || now;
    picture.update(report);
    peers.update(list(report.peers));
    showHead();
  } else if (report.drift?.time) {
    report.drift.time = new Date(now).toISOString(); // compared again, without a change
  }
  const lastEvent = headers.get("Plainroute-Last-Event");
  if (lastEvent && report.api) report.api.lastEvent = lastEvent;
  for (const part of [showProblems, showHost, showDrift, showPasses]) part();
});

// In the dashboard a node may have no report.
if (location.pathname.startsWith("/nodes/")) {
  byId("back").hidden = false;
  byId("name").textContent = printable(decodeURIComponent(location.pathname.slice("/nodes/".length)));
}
