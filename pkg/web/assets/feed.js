// Feed requests JSON regularly, unless it is paused or the page is hidden. Unchanged data is not
// sent again.
class Feed {
  #url; #every; #handlers; #etag = ""; #timer = 0; #paused = false; #pending = false; #confirmed = 0; #failure = "";

  constructor(url, every, handlers) {
    [this.#url, this.#every, this.#handlers] = [url, every, handlers];
    document.addEventListener("visibilitychange", () => document.hidden || this.#request());
    setInterval(() => this.#showAge(), 1000);
    this.#request();
  }

  get paused() { return this.#paused; }

  set paused(yes) {
    this.#paused = yes;
    yes ? this.#showAge() : this.#request();
  }

  async #request() {
    if (this.#pending || this.#paused) return;
    this.#pending = true;
    clearTimeout(this.#timer);
    let wait = this.#every;
    try {
      const headers = this.#etag ? { Accept: "application/json", "If-None-Match": this.#etag } : { Accept: "application/json" };
      const answer = await fetch(this.#url, { headers, cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (answer.status !== 200 && answer.status !== 304) {
        const why = (await answer.text()).trim().slice(0, 500);
        throw new Error(why || `the response is ${answer.status}`);
      }
      const data = answer.status === 200 ? await answer.json() : undefined;
      this.#etag = answer.headers.get("ETag") ?? "";
      [this.#confirmed, this.#failure] = [performance.now(), ""];
      wait = this.#handlers.data(data, answer.headers) ?? wait;
    } catch (error) {
      this.#failure = error instanceof TypeError ? "no connection" : error.name === "TimeoutError" ? "no answer for 20 s" : error.message;
      if (!(error instanceof TypeError) && error.name !== "TimeoutError") console.error(error);
    }
    this.#pending = false;
    this.#showAge();
    this.#timer = setTimeout(() => document.hidden || this.#request(), wait);
  }

  // tell shows the age of the data, and whether updates are expected.
  #showAge() {
    const age = this.#confirmed ? (performance.now() - this.#confirmed) / 1000 : NaN;
    this.#handlers.state({ age, failure: this.#failure, paused: this.#paused });
  }
}

// follow runs a Feed with the button that pauses it, and shows the age of the data in the page's
// head.
function follow(url, every, who, data) {
  const feed = new Feed(url, every, {
    data(values, headers) {
      if (values) {
        byId("loading").hidden = true;
        document.querySelector("main").hidden = false; // first, because hidden elements have no width
      }
      return data(values, headers);
    },
    state({ age, failure, paused }) {
      const known = !Number.isNaN(age);
      byId("age").textContent = known ? (paused ? "paused, " : "") + (age < 1.5 ? "as of now" : span(age) + " old") : "";
      byId("banner").hidden = !failure;
      if (!failure) return;
      byId("loading").textContent = `${who} does not answer: ${printable(failure)}. Trying again …`;
      const at = new Date(Date.now() - age * 1000);
      // Screen readers announce each change, so the text has no seconds.
      steady(byId("banner"), `${who} does not answer: ${failure}.` + (known ? ` The data shown is of ${at.toLocaleTimeString()}.` : ""));
    },
  });
  byId("pause").addEventListener("click", (event) => {
    feed.paused = !feed.paused;
    event.currentTarget.setAttribute("aria-pressed", feed.paused);
    event.currentTarget.textContent = feed.paused ? "Resume" : "Pause";
  });
}
