"use strict";
// Curves of one run, live, or of several over each other.
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(place, series, { log = false } = {}) {
    this.place = place;
    this.series = series; // of {label, colour, dash}
    this.points = series.map(() => new Map());
    this.log = log;
    this.plot = null;
    this.due = false;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
    document.addEventListener("theme", () => this.rebuild());
  }
  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }
  clear() {
    for (const points of this.points) points.clear();
    this.rebuild();
  }
  add(index, x, y) {
    if (y === null || y === undefined) return;
    this.points[index].set(x, y);
    if (this.due) return;
    this.due = true; // many lines come at once; one frame draws them all
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }
  data() {
    const xs = [...new Set(this.points.flatMap((points) => [...points.keys()]))].sort((a, b) => a - b);
    return [xs, ...this.points.map((points) => xs.map((x) => points.get(x) ?? null))];
  }
  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }
  draw() {
    const data = this.data();
    this.place.querySelector(".chart-empty").hidden = data[0].length > 0;
    if (!data[0].length) return;
    if (this.plot) {
      this.plot.setData(data);
      return;
    }
    const axis = { stroke: style("--soft"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") } };
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { y: false },
      scales: { x: { time: false }, y: this.log ? { distr: 3 } : {} },
      axes: [{ ...axis }, { ...axis, size: 62, values: (_plot, ticks) => ticks.map(number) }],
      series: [{}, ...this.series.map(({ colour, dash, label }) => ({
        label, stroke: style(colour), width: 2, spanGaps: true, dash,
        // A line needs two points, and a short run has one.
        points: { show: (_plot, i) => this.points[i - 1].size < 3, size: 8, fill: style(colour) },
      }))],
    }, data, this.place);
  }
}

// Of small numbers, as of learning rates, uPlot writes three places and no more.
const number = (tick) => {
  const short = tick === null ? null : +tick.toPrecision(3);
  return short && Math.abs(short) < 1e-3 ? short.toExponential() : short;
};
const seconds = (s) => s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s`
  : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;

// Hears the events of a run while its page is looked at, and goes on after the last one. A hidden page holds no
// connection: a browser keeps six to a server without HTTP/2. Refused, EventSource would give up for good.
function follow(page, hear) {
  const lost = document.getElementById("lost");
  let source, again, last = "", ended = false;
  const close = () => {
    clearTimeout(again);
    source?.close();
  };
  const open = () => {
    close();
    if (ended || document.hidden) return;
    source = new EventSource(last ? `${page.dataset.events}?after=${last}` : page.dataset.events);
    source.addEventListener("open", () => { lost.hidden = true; });
    source.addEventListener("error", () => {
      lost.hidden = false;
      if (source.readyState === EventSource.CLOSED) again = setTimeout(retry, 5000);
    });
    for (const [name, act] of Object.entries(hear)) {
      source.addEventListener(name, (event) => {
        last = event.lastEventId || last;
        act(event);
      });
    }
    source.addEventListener("end", (event) => {
      ended = true;
      close();
      if (JSON.parse(event.data).allowed === false) location.reload(); // which asks to log in
    });
  };
  const retry = async () => {
    const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
    if (answer?.type === "opaqueredirect") location.reload(); // the session has ended
    else open();
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  open();
}

function watch(page) {
  const place = (name) => document.getElementById(name);
  const loss = new Chart(place("loss"), [{ label: "train", colour: "--c0" }, { label: "validation", colour: "--c1" }], { log: true });
  const accuracy = new Chart(place("accuracy"), [{ label: "train", colour: "--c0" }, { label: "validation", colour: "--c1" }]);
  const rate = new Chart(place("rate"), [{ label: "rate", colour: "--c2" }]);
  const add = (line) => {
    const at = { train: 0, validation: 1 }[line.split];
    if (at === undefined) return;
    loss.add(at, line.step, line.loss);
    accuracy.add(at, line.step, line.accuracy);
    if (line.split === "train") rate.add(0, line.step, line.learning_rate);
    const told = place(line.split === "train" ? "fact-loss" : "fact-accuracy");
    if (told) told.textContent = line.split === "train" ? line.loss?.toPrecision(4) ?? "–" : `${(100 * line.accuracy).toFixed(2)} %`;
  };
  let was = page.dataset.status;
  const tell = (event) => {
    const told = JSON.parse(event.data);
    if (told.status !== was) {
      was = told.status;
      // What can be done has changed: the page is made anew. It stays where it is, and the curves come back.
      location.reload();
      return;
    }
    const total = Number(page.dataset.total);
    const bar = place("progress");
    if (told.step) { // 0 where no line came since the stream was opened
      if (place("fact-step")) place("fact-step").textContent = total ? `${told.step.toLocaleString("en")} / ${total.toLocaleString("en")}` : told.step;
      if (bar && total) bar.value = told.step / total;
    }
    if (place("fact-speed")) place("fact-speed").textContent = told.images_per_second?.toLocaleString("en") ?? "–";
    if (place("fact-left")) place("fact-left").textContent = told.seconds_left === null ? "–" : seconds(told.seconds_left);
  };
  follow(page, {
    message: (event) => add(JSON.parse(event.data)),
    reset: () => [loss, accuracy, rate].forEach((chart) => chart.clear()),
    status: tell,
  });
}

async function compare(page) {
  const runs = [...page.querySelectorAll("[data-metrics]")];
  const series = runs.map((run, i) => ({ label: run.dataset.name, colour: `--c${i % 8}`, dash: i < 8 ? undefined : [6, 4] }));
  const charts = [
    [new Chart(document.getElementById("accuracy"), series), "validation", "accuracy"],
    [new Chart(document.getElementById("loss"), series, { log: true }), "train", "loss"],
  ];
  await Promise.all(runs.map(async (run, i) => {
    const answer = await fetch(run.dataset.metrics);
    if (!answer.ok) return; // deleted meanwhile; its row in the table tells
    for (const line of (await answer.json()).lines) {
      for (const [chart, split, name] of charts) if (line.split === split) chart.add(i, line.epoch, line[name]);
    }
  }));
}

function awaitEnd(page) {
  follow(page, {
    status: (event) => {
      if (JSON.parse(event.data).status !== page.dataset.status) location.reload();
    },
  });
}

const page = document.querySelector("[data-curves]");
if (page?.dataset.curves === "status") awaitEnd(page);
if (page?.dataset.curves === "live") watch(page);
if (page?.dataset.curves === "compare") compare(page);
