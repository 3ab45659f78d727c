"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#98a2b3", "#3b7dd8", "#d9480f", "#2b8a3e", "#7048e8", "#0c8599", "#c2255c", "#846400", "#495057", "#5f3dc4"];
const ROW = 20, AXIS = 18, MARGIN = 74, LANE = 34;
const longest = Math.max(1, ...data.timelines.map((t) => t.cycles));
const view = { start: 0, end: longest };
const chosen = { line: 0, listing: 0, timeline: -1 }; // line: of the source; listing: of that timeline's listing
const canvases = [];
const tip = document.getElementById("tip");

const element = (name, parent, text = "", className = "") => {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  if (className) node.className = className;
  parent.append(node);
  return node;
};
const figure = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

// Time: one canvas for each order, one for the memories; all show the same cycles.

function board(caption, height, draw, find) {
  const section = document.getElementById("time");
  const title = element("div", section, "", "caption");
  title.innerHTML = "<b></b> <span></span>";
  title.children[0].textContent = caption[0];
  title.children[1].textContent = caption[1];
  const canvas = element("canvas", section);
  canvas.style.height = `${height}px`;
  const entry = { canvas, height, draw, find };
  canvases.push(entry);
  canvas.addEventListener("wheel", (event) => zoom(entry, event), { passive: false });
  canvas.addEventListener("pointerdown", (event) => drag(entry, event));
  canvas.addEventListener("pointermove", (event) => hover(entry, event));
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  canvas.addEventListener("dblclick", () => show(0, longest));
}

function show(start, end) {
  const width = Math.min(longest, Math.max(8, end - start));
  view.start = Math.min(Math.max(0, start), longest - width);
  view.end = view.start + width;
  redraw();
}

function redraw() {
  for (const { canvas, height, draw } of canvases) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    draw(pen, width, (cycle) => MARGIN + (cycle - view.start) / (view.end - view.start) * (width - MARGIN));
  }
}

const cycleAt = (canvas, x) => view.start + (x - MARGIN) / (canvas.clientWidth - MARGIN) * (view.end - view.start);

function zoom({ canvas }, event) {
  event.preventDefault();
  const at = cycleAt(canvas, event.offsetX), factor = Math.exp(event.deltaY * 0.002);
  show(at - (at - view.start) * factor, at + (view.end - at) * factor);
}

function drag(entry, event) {
  const { canvas } = entry, from = event.offsetX, start = view.start, scale = (view.end - view.start) / (canvas.clientWidth - MARGIN);
  let moved = false;
  canvas.setPointerCapture(event.pointerId);
  const move = (e) => {
    if (!moved && Math.abs(e.offsetX - from) < 4) return;
    moved = true;
    show(start - (e.offsetX - from) * scale, start - (e.offsetX - from) * scale + view.end - view.start);
  };
  const up = (e) => {
    canvas.removeEventListener("pointermove", move);
    if (!moved) entry.find(e.offsetX, e.offsetY, true);
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up, { once: true });
}

function hover(entry, event) {
  const text = event.buttons ? "" : entry.find(event.offsetX, event.offsetY, false);
  tip.style.display = text ? "block" : "none";
  if (!text) return;
  tip.textContent = text;
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, window.innerHeight - tip.offsetHeight - 8)}px`;
}

function axis(pen, width, place) {
  const rough = (view.end - view.start) / Math.max(4, width / 120), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) || 10);
  pen.fillStyle = "#667085";
  pen.strokeStyle = "#eceff4";
  for (let cycle = Math.ceil(view.start / step) * step; cycle <= view.end; cycle += step) {
    const x = place(cycle);
    pen.beginPath();
    pen.moveTo(x, AXIS);
    pen.lineTo(x, 4000);
    pen.stroke();
    pen.fillText(figure(cycle, step < 1 ? 1 : 0), Math.min(x + 3, width - 40), 12);
  }
}

const isChosen = (kind, number) => (chosen.listing && chosen.timeline === number ? kind[3] === chosen.listing : chosen.line && kind[2] === chosen.line);

function drawTimeline(timeline, number) {
  return (pen, width, place) => {
    axis(pen, width, place);
    pen.fillStyle = "#1c2330";
    timeline.pipes.forEach((name, n) => pen.fillText(name, 6, AXIS + n * ROW + 14));
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN, 0, width, 4000);
    pen.clip();
    pen.fillStyle = "#e4e7ec";
    for (const [pipe, start, end] of timeline.stalls) {
      if (end >= view.start && start <= view.end) pen.fillRect(place(start), AXIS + pipe * ROW + 8, place(end) - place(start), 4);
    }
    const any = chosen.line || (chosen.listing && chosen.timeline === number);
    for (const [kind, start, end] of timeline.slices) {
      if (end < view.start || start > view.end) continue;
      const about = timeline.kinds[kind], x = place(start), wide = Math.max(0.7, place(end) - x);
      pen.globalAlpha = any && !isChosen(about, number) ? 0.18 : 0.9;
      pen.fillStyle = COLOURS[about[0] % COLOURS.length];
      pen.fillRect(x, AXIS + about[0] * ROW + 2, wide > 3 ? wide - 0.6 : wide, ROW - 4);
    }
    pen.globalAlpha = 1;
    flags(pen, timeline, place);
    pen.restore();
  };
}

function flags(pen, timeline, place) {
  const visible = timeline.arrows.filter(([, set, , wait]) => wait >= view.start && set <= view.end);
  if (visible.length > 160) return; // they would hide what they join
  pen.strokeStyle = "#1c233080";
  for (const [from, set, to, wait] of visible) {
    const y = AXIS + to * ROW + ROW / 2, x = place(wait);
    pen.beginPath();
    pen.moveTo(place(set), AXIS + from * ROW + ROW / 2);
    pen.lineTo(x, y);
    pen.lineTo(x - 4, y + (from < to ? -4 : 4));
    pen.stroke();
  }
}

function findSlice(timeline, number, canvas) {
  return (x, y, clicked) => {
    const pipe = Math.floor((y - AXIS) / ROW), cycle = cycleAt(canvas(), x), near = (view.end - view.start) / 800;
    let best = null;
    for (const slice of timeline.slices) {
      if (timeline.kinds[slice[0]][0] !== pipe || slice[1] > cycle + near || slice[2] < cycle - near) continue;
      if (!best || Math.abs(slice[1] + slice[2] - 2 * cycle) < Math.abs(best[1] + best[2] - 2 * cycle)) best = slice;
    }
    const kind = best && timeline.kinds[best[0]];
    if (clicked) choose(kind ? kind[2] : 0, kind ? kind[3] : 0, kind ? number : -1);
    if (kind) {
      const where = [kind[3] ? `listing line ${kind[3]}` : "", kind[2] ? `source line ${kind[2]}` : ""].filter(Boolean).join(", ");
      return `${kind[1]}\ncycles ${figure(best[1], 1)} to ${figure(best[2], 1)}, result visible at ${figure(best[3], 1)}\n${where}`;
    }
    const stall = timeline.stalls.find(([p, start, end]) => p === pipe && start <= cycle && end >= cycle);
    return stall ? `${stall[3]}\nwaits from ${figure(stall[1], 1)} to ${figure(stall[2], 1)}` : "";
  };
}

function drawMemories(pen, width, place) {
  axis(pen, width, place);
  data.occupancy.forEach((memory, n) => {
    const floor = AXIS + (n + 1) * LANE - 4, tall = LANE - 8;
    pen.fillStyle = "#1c2330";
    pen.fillText(memory.space, 6, floor - 10);
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN, 0, width, 4000);
    pen.clip();
    pen.strokeStyle = "#d8dee8";
    pen.strokeRect(MARGIN, floor - tall, width, tall);
    pen.fillStyle = "#3b7dd8aa";
    memory.steps.forEach(([cycle, bytes], k) => {
      const next = k + 1 < memory.steps.length ? memory.steps[k + 1][0] : longest, high = bytes / memory.capacity * tall;
      if (next >= view.start && cycle <= view.end) pen.fillRect(place(cycle), floor - high, Math.max(0.5, place(next) - place(cycle)), high);
    });
    pen.restore();
  });
}

function findMemory(x, y) {
  const memory = data.occupancy[Math.floor((y - AXIS) / LANE)];
  if (!memory) return "";
  const cycle = cycleAt(canvases[canvases.length - 1].canvas, x);
  const step = memory.steps.filter(([at]) => at <= cycle).pop();
  const share = (bytes) => `${figure(bytes)} bytes (${figure(100 * bytes / memory.capacity, 1)} %)`;
  return `${memory.space}: ${share(step ? step[1] : 0)} in use at ${figure(cycle)}\npeak ${share(memory.peak)} of ${figure(memory.capacity)}`;
}

// Text: source on the left, one IR on the right, joined by source lines.

const lineOf = (text) => Number((/\bline[ =](\d+)/.exec(text) || [0, 0])[1]);

function fill(pane, text, linked) {
  pane.replaceChildren();
  text.replace(/\n$/, "").split("\n").forEach((line, n) => {
    const row = element("div", pane);
    element("i", row, String(n + 1));
    row.append(line || " ");
    linked(row, line, n + 1);
  });
}

function fillIR() {
  const number = Number(document.getElementById("choice").value), ir = data.irs[number];
  document.getElementById("note").textContent = ir.note;
  fill(document.getElementById("ir"), ir.text, (row, line, at) => {
    row.dataset.line = lineOf(line);
    row.dataset.at = at;
    const listed = ir.timeline >= 0 && data.timelines[ir.timeline].kinds.some((kind) => kind[3] === at);
    if (!lineOf(line) && !listed) return;
    row.className = "linked";
    row.addEventListener("click", () => choose(lineOf(line), listed ? at : 0, listed ? ir.timeline : -1));
  });
  mark(false);
}

function choose(line, listing, timeline) {
  const same = chosen.line === line && chosen.listing === listing && chosen.timeline === timeline;
  Object.assign(chosen, same ? { line: 0, listing: 0, timeline: -1 } : { line, listing, timeline });
  const wanted = data.irs.findIndex((ir) => ir.timeline === timeline);
  const choice = document.getElementById("choice");
  if (!same && listing && wanted >= 0 && Number(choice.value) !== wanted) {
    choice.value = String(wanted);
    fillIR();
  }
  mark(true);
  redraw();
}

function mark(scroll) {
  const ir = data.irs[Number(document.getElementById("choice").value)];
  const exact = chosen.listing && ir.timeline === chosen.timeline;
  for (const row of document.getElementById("ir").children) {
    row.classList.toggle("on", exact ? Number(row.dataset.at) === chosen.listing : chosen.line > 0 && Number(row.dataset.line) === chosen.line);
  }
  [...document.getElementById("source").children].forEach((row, n) => row.classList.toggle("on", n + 1 === chosen.line));
  if (!scroll) return;
  for (const id of ["source", "ir"]) {
    const pane = document.getElementById(id), on = pane.querySelector(".on");
    if (on && (on.offsetTop - pane.offsetTop < pane.scrollTop || on.offsetTop - pane.offsetTop > pane.scrollTop + pane.clientHeight - 20)) {
      pane.scrollTop = on.offsetTop - pane.offsetTop - pane.clientHeight / 2;
    }
  }
}

// Figures.

function drawing(tag, parent, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

function roofline({ cube_peak: cube, vector_peak: vector, bandwidth, points }) {
  const width = 560, height = 300, left = 56, floor = height - 34, peak = Math.max(cube, vector);
  const near = points.map((p) => p.intensity).filter((v) => v > 0);
  const xs = [Math.min(0.1, ...near) / 2, Math.max(peak / bandwidth * 8, ...near.map((v) => v * 2))];
  const ys = [Math.min(1, ...points.map((p) => p.performance / 2).filter((v) => v > 0)), peak * 2];
  const at = (value, [low, high], from, to) => from + (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low)) * (to - from);
  const x = (value) => at(value, xs, left, width - 10), y = (value) => at(value, ys, floor, 10);
  const svg = drawing("svg", document.getElementById("roofline"), { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img" });
  for (const [range, place] of [[xs, "x"], [ys, "y"]]) {
    for (let power = Math.ceil(Math.log10(range[0])); 10 ** power <= range[1]; power++) {
      const v = 10 ** power;
      const line = place === "x" ? { x1: x(v), x2: x(v), y1: 10, y2: floor } : { x1: left, x2: width - 10, y1: y(v), y2: y(v) };
      drawing("line", svg, { ...line, stroke: "#eceff4" });
      drawing("text", svg, place === "x" ? { x: x(v) - 8, y: floor + 14 } : { x: 8, y: y(v) + 4 }, v.toLocaleString("en"));
    }
  }
  for (const [name, top] of [["cube", cube], ["vector", vector]]) {
    if (!top) continue;
    const path = `M${x(xs[0])},${y(Math.max(ys[0], xs[0] * bandwidth))} L${x(top / bandwidth)},${y(top)} L${x(xs[1])},${y(top)}`;
    drawing("path", svg, { d: path, fill: "none", stroke: name === "cube" ? "#d9480f" : "#3b7dd8", "stroke-width": 1.6 });
    drawing("text", svg, { x: width - 190, y: y(top) - 5 }, `${name}: ${figure(top)} operations a cycle`);
  }
  points.forEach((p, n) => {
    if (!p.intensity) return;
    drawing("circle", svg, { cx: x(p.intensity), cy: y(p.performance), r: 5, fill: n ? "#2b8a3e" : "#98a2b3" });
    drawing("text", svg, { x: x(p.intensity) + 8, y: y(p.performance) + (n ? -6 : 14) }, `${p.label}: ${figure(p.performance)}`);
  });
  drawing("text", svg, { x: left, y: height - 4 }, `operations per byte of global memory (${figure(bandwidth)} bytes a cycle)`);
}

function tables() {
  const home = document.getElementById("figures");
  for (const { header, rows } of data.tables) {
    const table = element("table", home);
    const head = element("tr", table);
    header.forEach((cell) => element("th", head, cell));
    for (const row of rows) {
      const line = element("tr", table);
      row.forEach((cell) => element("td", line, String(cell)));
    }
    element("p", home);
  }
  data.proofs.forEach((proof) => element("div", home, `proved: ${proof}`));
}

document.getElementById("title").textContent = data.title;
document.getElementById("summary").textContent = data.summary;
data.timelines.forEach((timeline, number) => {
  const caption = [timeline.label, `${figure(timeline.cycles)} cycles${timeline.whole ? "" : ", its first instructions"}. Wheel: zoom, drag: move, double click: all, click: find the line`];
  const canvas = () => canvases[number].canvas;
  board(caption, AXIS + timeline.pipes.length * ROW + 4, drawTimeline(timeline, number), findSlice(timeline, number, canvas));
});
if (data.occupancy.length) board(["Memories, reordered", "share of each that holds values still needed"], AXIS + data.occupancy.length * LANE, drawMemories, findMemory);
fill(document.getElementById("source"), data.source, (row, _, at) => {
  row.className = "linked";
  row.addEventListener("click", () => choose(at, 0, -1));
});
data.irs.forEach((ir, n) => { element("option", document.getElementById("choice"), ir.name).value = String(n); });
document.getElementById("choice").value = String(data.irs.length - 1);
document.getElementById("choice").addEventListener("change", fillIR);
fillIR();
if (data.roofline) roofline(data.roofline);
tables();
window.addEventListener("resize", redraw);
redraw();
document.body.dataset.ready = "yes";
