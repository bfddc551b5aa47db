// Table shows thousands of rows; only the visible ones are in the document. Rows can be sorted by
// column, and filtered by text and state.
class Table {
  #options; #rows = []; #shown = []; #drawn = new Map(); #states = new Set(); #words = []; #sort; #frame = 0;
  #chips; #summary; #box; #table; #head; #body; #above; #below; #nothing;

  // options: title, noun, placeholder, key(row), state(row), kind(state), text(row), sort (a
  // column's key), and columns: key, label, width, place (in the narrow form), value(row) to sort
  // by, and cell(row) to show.
  constructor(section, options) {
    this.#options = options;
    this.#sort = { column: options.columns.find((c) => c.key === options.sort), down: false };
    this.#build(section);
    this.#box.addEventListener("scroll", () => this.#soon(), { passive: true });
    addEventListener("resize", () => this.#soon());
  }

  #build(section) {
    const { title, noun, placeholder, columns } = this.#options;
    this.#chips = make("div", { class: "chips", role: "group", "aria-label": "Show only" });
    this.#summary = make("span", { class: "soft", role: "status" });
    const filter = make("input", {
      type: "search", placeholder, "aria-label": placeholder, autocomplete: "off", spellcheck: "false",
      input: () => this.#filter(filter.value),
    });
    this.#head = make("tr", { role: "row", "aria-rowindex": 1 }, columns.map((c) => make("th", { role: "columnheader", scope: "col", "data-key": c.key },
      make("button", { type: "button", click: () => this.#sortBy(c) }, c.label))));
    [this.#above, this.#below] = [0, 0].map(() => make("tr", { class: "gap", "aria-hidden": "true" }, make("td", { colspan: columns.length })));
    this.#body = make("tbody", { role: "rowgroup" }, this.#above, this.#below);
    this.#table = make("table", { role: "table", "aria-label": title },
      make("colgroup", {}, columns.map((c) => { const col = make("col"); col.style.width = c.width; return col; })),
      make("thead", { role: "rowgroup" }, this.#head), this.#body);
    this.#nothing = make("p", { class: "nothing", hidden: "" }, `No ${noun} match.`);
    this.#box = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, this.#table, this.#nothing);
    section.append(make("div", { class: "tools" }, make("h2", { id: section.getAttribute("aria-labelledby") }, title), filter, this.#chips, this.#summary), this.#box);
  }

  get empty() { return this.#rows.length === 0; }

  // update replaces the rows, and keeps order, filters and scroll position.
  update(rows) {
    this.#rows = rows.map((row) => ({ row, text: this.#options.text(row).toLowerCase(), state: this.#options.state(row) }));
    this.#arrange();
    this.#drawn.clear();
    this.#select();
  }

  #arrange() {
    const { column, down } = this.#sort;
    for (const th of this.#head.children) {
      th.setAttribute("aria-sort", th.dataset.key !== column.key ? "none" : down ? "descending" : "ascending");
    }
    const compare = Table.#compare;
    for (const r of this.#rows) r.value = column.value(r.row);
    this.#rows.sort((a, b) => (down ? -1 : 1) * compare(a.value, b.value) || compare(a.text, b.text));
  }

  static #compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return Table.#collator.compare(a, b);
  }

  static #collator = new Intl.Collator("en", { numeric: true });

  #sortBy(column) {
    this.#sort = { column, down: this.#sort.column === column && !this.#sort.down };
    this.#arrange();
    this.#select();
    this.#box.scrollTop = 0;
  }

  #filter(text) {
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#select();
    this.#box.scrollTop = 0;
  }

  #toggle(state) {
    this.#states.delete(state) || this.#states.add(state);
    this.#select();
    this.#box.scrollTop = 0;
  }

  #select() {
    const counts = new Map();
    const { noun, order } = this.#options;
    this.#shown = this.#rows.filter((r) => {
      if (!this.#words.every((w) => r.text.includes(w))) return false;
      counts.set(r.state, (counts.get(r.state) ?? 0) + 1);
      return this.#states.size === 0 || this.#states.has(r.state);
    });
    this.#showChips(counts, order);
    this.#summary.textContent = this.#shown.length === this.#rows.length ? count(this.#rows.length, noun[0], noun[1])
      : `${this.#shown.length.toLocaleString("en")} of ${count(this.#rows.length, noun[0], noun[1])}`;
    this.#table.setAttribute("aria-rowcount", this.#shown.length + 1);
    this.#nothing.hidden = this.#shown.length > 0;
    this.#nothing.textContent = this.#rows.length === 0 ? `There are no ${noun[1]}.` : `No ${noun[1]} match.`;
    this.#box.classList.toggle("few", this.#rows.length <= 12);
    this.#draw();
  }

  #showChips(counts, order) {
    const all = [...new Set([...this.#rows.map((r) => r.state), ...this.#states])].sort((a, b) => order(a) - order(b));
    const old = new Map([...this.#chips.children].map((c) => [c.dataset.state, c]));
    this.#chips.replaceChildren(...(all.length < 2 && this.#states.size === 0 ? [] : all).map((state) => {
      const chip = old.get(state) ?? make("button", { type: "button", "data-state": state, click: () => this.#toggle(state) });
      chip.setAttribute("aria-pressed", this.#states.has(state));
      chip.replaceChildren(badge(state, this.#options.kind(state)), " " + (counts.get(state) ?? 0).toLocaleString("en"));
      return chip;
    }));
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  // draw adds the visible rows to the document, and some around them.
  #draw() {
    const spare = 8;
    const height = parseFloat(getComputedStyle(this.#table).getPropertyValue("--row"));
    const visible = Math.ceil(this.#box.clientHeight / height) || 20;
    const top = Math.min(this.#box.scrollTop, Math.max(0, this.#shown.length * height - this.#box.clientHeight));
    const from = this.#box.classList.contains("few") ? 0 : Math.max(0, Math.floor(top / height) - spare);
    const until = Math.min(this.#shown.length, from + visible + 2 * spare);
    const focused = this.#body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.key : undefined;
    const drawn = new Map();
    for (let i = from; i < until; i++) {
      const { row } = this.#shown[i];
      const tr = this.#drawn.get(row) ?? this.#row(row);
      tr.setAttribute("aria-rowindex", i + 2);
      drawn.set(row, tr);
    }
    this.#drawn = drawn;
    const next = [...drawn.values()];
    this.#above.firstChild.style.height = from * height + "px";
    this.#below.firstChild.style.height = (this.#shown.length - until) * height + "px";
    const now = [...this.#body.children].slice(1, -1);
    if (now.length !== next.length || now.some((tr, i) => tr !== next[i])) {
      this.#body.replaceChildren(this.#above, ...next, this.#below);
    }
    if (focused !== undefined && !this.#body.contains(document.activeElement)) {
      next.find((tr) => tr.dataset.key === focused)?.querySelector("button, a")?.focus({ preventScroll: true });
    }
  }

  #row(row) {
    return make("tr", { role: "row", "data-key": this.#options.key(row) },
      this.#options.columns.map((c) => {
        const cell = c.cell(row);
        const text = cell instanceof Node ? cell.textContent : cell;
        return make("td", { role: "cell", class: c.place, title: text.length > 12 ? text : undefined }, cell);
      }));
  }
}
