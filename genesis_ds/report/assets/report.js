"use strict";
// Draws the charts and the heat maps of a report. Every text goes into the page as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const PALETTE = 8, FEW = 6, BEHIND = 3, HEIGHT = 260, PRINTED = 660;
  const LAST = Math.max(1, ...data.steps.map(list => list.at(-1) ?? 1));
  const drawers = [];
  let printing = false;

  const kept = (key, value) => {  // a browser may refuse to keep anything for a file
    try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
  };
  let isLog = kept("genesis-axis") !== "linear";

  const colour = name => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const make = (tag, given = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), given);
    made.append(...children);
    return made;
  };
  const short = value => value == null ? "-" : String(+value.toPrecision(4));
  const steps = value => value >= 1e6 ? `${+(value / 1e6).toPrecision(4)}M` : value >= 1e4 ? `${+(value / 1e3).toPrecision(4)}k` : String(value);
  const logTicks = (low, high) => {  // powers of ten; between few of them 2 and 5 as well, and even ticks in less than one
    if (high / low < 8) return evenTicks(low, high);
    const found = [], decades = Math.log10(high / low), each = Math.ceil(decades / 7);
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += each)
      for (const factor of decades < 3.2 ? [1, 2, 5] : [1]) {
        const tick = +(factor * 10 ** power).toPrecision(3);
        if (tick >= low * .999 && tick <= high * 1.001) found.push(tick);
      }
    return found;
  };
  const evenTicks = (low, high) => {
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(factor => factor * power).find(each => each >= rough);
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(+tick.toPrecision(12));
    return found;
  };
  const MARKS = { grokked: "good", grokking_confirmed: "good", generalised: "good", late_improvement: "good", collapse: "bad", relapse: "bad", skipped: "bad", softmax_collapse: "bad", notice: "note" };
  const markColour = kind => colour(MARKS[kind] || "mark");

  function details(rows) {  // the values of a chart as a table, made when it is opened
    const box = make("details", {}, make("summary", { textContent: "values" }));
    box.addEventListener("toggle", () => {
      if (!box.open) return;
      const [head, ...body] = rows();
      const row = (cells, tag) => make("tr", {}, ...cells.map(cell => make(tag, { textContent: cell })));
      const table = make("table", {}, make("thead", {}, row(head, "th")), make("tbody", {}, ...body.map(cells => row(cells, "td"))));
      const wide = make("div", { className: "wide", tabIndex: 0 }, table);
      box.replaceChildren(box.firstChild, wide);
    });
    return box;
  }

  function chooser(label, names, choose) {
    const select = make("select", { ariaLabel: label }, ...names.map((name, value) => make("option", { textContent: name, value })));
    select.addEventListener("change", () => choose(+select.value));
    return make("label", { textContent: `${label} ` }, select);
  }

  function lineChart(figure, spec) {
    let set = spec.sets[0], picked = "", plot = null, hidden = new Set();
    const caption = figure.firstChild, choices = make("div", { className: "choices" });
    const box = make("div", { className: "plot", tabIndex: 0, role: "img" });
    const legend = make("ul", { className: "legend" }), said = make("p", { ariaLive: "polite" });
    const small = make("small");
    caption.append(" ", small);
    figure.append(...(spec.about ? [make("p", { textContent: spec.about })] : []), choices, box, legend, said, details(rows));

    const first = () => Math.min(...set.lines.filter(isShown).map(line => data.steps[line.x][0] ?? LAST));
    const stepsOf = line => line.style === "control" ? [first(), LAST] : data.steps[line.x];
    const valuesOf = line => line.style === "control" ? [line.y[0], line.y[0]] : line.y;
    const isShown = line => line.style === "line" || line.style === "mean";
    const last = line => line.y.findLast(value => value != null);
    const coloured = () => {  // few lines all have a colour; of many the highest ones, and the one that is chosen
      const lines = set.lines.filter(line => line.style === "line");
      if (lines.length <= FEW) return lines;
      const ordered = [...lines].sort((a, b) => (last(b) ?? Infinity) - (last(a) ?? Infinity));
      const chosen = lines.filter(line => line.label === picked);
      return [...new Set([...chosen, ...ordered.slice(0, BEHIND)])];
    };

    function choose() {
      choices.replaceChildren();
      if (spec.sets.length > 1) {
        const names = spec.sets.map(each => each.name || "all");
        const made = chooser("show", names, at => { set = spec.sets[at]; picked = ""; hidden = new Set(); choose(); draw(); });
        made.querySelector("select").value = spec.sets.indexOf(set);
        choices.append(made);
      }
      const labels = set.lines.filter(line => line.style === "line").map(line => line.label);
      if (labels.length > FEW) choices.append(chooser("highlight", ["none", ...labels], at => { picked = at ? labels[at - 1] : ""; draw(); }));
    }

    function look() {  // line -> its colour, width and dashes
      const bright = coloured();
      return new Map(set.lines.map(line => {
        const at = bright.indexOf(line), few = set.lines.filter(each => each.style === "line").length <= FEW;
        if (line.style === "mean") return [line, { stroke: colour("ink"), width: 2.5, dash: line.label === "mean" ? undefined : [8, 4] }];
        if (line.style === "control") return [line, { stroke: colour("dim"), width: 1.2, dash: [[6, 5], [2, 4], [10, 4, 2, 4], [12, 6]][set.lines.filter(each => each.style === "control").indexOf(line) % 4] }];
        if (line.style !== "line") return [line, { stroke: "transparent", width: 0 }];
        if (at < 0) return [line, { stroke: colour("quiet"), width: 1 }];
        return [line, { stroke: colour(`c${at % PALETTE}`), width: !few && line.label === picked ? 3 : 1.8, dash: at >= PALETTE ? [8, 4] : undefined }];
      }));
    }

    function draw() {
      plot?.destroy();
      small.textContent = [spec.unit, set.name].filter(Boolean).join(", ");
      const looks = look(), bright = coloured(), lows = set.lines.findIndex(line => line.style === "low"), highs = set.lines.findIndex(line => line.style === "high");
      const ordered = [...set.lines].sort((a, b) => bright.includes(a) - bright.includes(b) || (a.style === "mean") - (b.style === "mean"));
      const values = uPlot.join(ordered.map(line => [stepsOf(line), valuesOf(line).map(value => spec.log && value <= 0 ? null : value)]));
      const at = style => ordered.findIndex(line => line.style === style) + 1;
      const width = printing ? PRINTED : box.clientWidth || 600;
      const axis = { stroke: colour("dim"), grid: { stroke: colour("rule"), width: 1 }, ticks: { stroke: colour("rule") }, font: "12px system-ui, sans-serif" };
      const plain = (u, splits) => splits;
      plot = new uPlot({
        width, height: HEIGHT, legend: { show: false },
        focus: { alpha: .3 },
        cursor: { sync: { key: "steps" }, focus: { prox: ordered.length > 3 ? 16 : -1 }, drag: { x: true, y: false }, points: { size: 6 }, bind: { dblclick: () => () => { reset(); return null; } } },
        scales: {
          x: { time: false, distr: isLog ? 3 : 1, range: (u, low, high) => [low, high] },
          y: { distr: spec.log ? 3 : 1, range: (u, low, high) => padded(low, high) },
        },
        series: [{}, ...ordered.map(line => ({ label: line.label, show: !hidden.has(line.label), points: { show: isShown(line) && (line.y.length === 1 || undefined), size: 5 }, ...looks.get(line) }))],
        bands: lows >= 0 && highs >= 0 ? [{ series: [at("high"), at("low")], fill: colour("c0") + "22" }] : [],
        axes: [
          { ...axis, splits: (u, i, low, high) => isLog ? logTicks(low, high) : evenTicks(low, high), filter: plain, values: (u, ticks) => ticks.map(steps), space: 50 },
          { ...axis, splits: (u, i, low, high) => spec.log ? logTicks(low, high) : evenTicks(low, high), filter: plain, values: (u, ticks) => ticks.map(short), size: 58 },
        ],
        hooks: { draw: [drawMarks], setCursor: [() => tell(ordered, values)], setSeries: [(u, i) => { focused = i ? ordered[i - 1] : null; tell(ordered, values); }] },
      }, values, box);
      reset();
      box.setAttribute("aria-label", inWords());
      tell(ordered, values);
    }
    let focused = null;
    const reset = () => plot.setScale("x", first() < LAST ? { min: first(), max: LAST } : { min: LAST * .9, max: LAST * 1.1 });
    const padded = (low, high) => {
      if (low == null) return [1, 10];
      if (spec.log) return [low / 1.15, high * 1.15];
      const pad = (high - low || Math.abs(high) || 1) * .05;
      return [low - pad, high + pad];
    };

    function drawMarks(u) {
      const { ctx, bbox } = u, many = set.marks.length > 30, size = devicePixelRatio;
      ctx.save();
      for (const [step, kind] of set.marks) {
        const x = u.valToPos(Math.max(1, step), "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.strokeStyle = ctx.fillStyle = markColour(kind);
        ctx.beginPath();
        ctx.moveTo(x - 5 * size, bbox.top);
        ctx.lineTo(x + 5 * size, bbox.top);
        ctx.lineTo(x, bbox.top + 8 * size);
        ctx.fill();
        if (many) continue;
        ctx.setLineDash([3 * size, 4 * size]);
        ctx.globalAlpha = .6;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.globalAlpha = 1;
      }
      ctx.restore();
    }

    function tell(ordered, values) {  // the legend with the values at the cursor, or the last ones
      const idx = plot?.cursor.idx, looks = look(), bright = coloured();
      const value = line => {
        const column = values[ordered.indexOf(line) + 1];
        for (let at = idx ?? column.length - 1; at >= 0; at--) if (column[at] != null) return column[at];
        return null;
      };
      const items = set.lines.filter(line => line.style === "mean" || line.style === "control" || bright.includes(line));
      const n = set.lines.filter(line => line.style === "line").length - bright.length;
      const kinds = [...new Set(set.marks.map(mark => mark[1]))].map(kind => [kind, set.marks.filter(mark => mark[1] === kind)]);
      legend.replaceChildren(...items.map(line => {
        const swatch = make("i", { className: line.style === "control" ? "dashed" : "" });
        swatch.style.borderColor = looks.get(line).stroke;
        const button = make("button", { type: "button" }, swatch, `${line.label} ${short(value(line))}`);
        button.setAttribute("aria-pressed", String(!hidden.has(line.label)));
        button.addEventListener("click", () => { hidden.has(line.label) ? hidden.delete(line.label) : hidden.add(line.label); draw(); });
        return make("li", {}, button);
      }), ...(n > 0 ? [make("li", { textContent: `${n} others in grey` })] : []), ...kinds.map(([kind, its]) => {
        const swatch = make("i", { className: "mark" });
        swatch.style.borderColor = markColour(kind);
        return make("li", {}, swatch, `${its.length} ${kind.replaceAll("_", " ")}`);
      }));
      if (idx == null) { said.textContent = ""; return; }
      const near = set.marks.filter(mark => Math.abs(plot.valToPos(mark[0], "x") - plot.cursor.left) < 8).map(mark => mark[2]);
      const named = focused && !items.includes(focused) && isShown(focused) ? [`${focused.label} ${short(value(focused))}`] : [];
      said.textContent = [`step ${values[0][idx].toLocaleString("en")}`, ...named, ...near.slice(0, 4), ...(near.length > 4 ? [`and ${near.length - 4} more events`] : [])].join("; ");
    }

    function inWords() {
      const lines = set.lines.filter(line => line.style === "mean").concat(coloured()).slice(0, 5).map(line => {
        const known = line.y.filter(value => value != null), x = data.steps[line.x];
        if (!known.length) return `${line.label} never finite`;
        const low = Math.min(...known);
        return `${line.label} from ${short(known[0])} to ${short(known.at(-1))}, lowest ${short(low)} at step ${x[line.y.indexOf(low)]}`;
      });
      return `${spec.title}${set.name ? `, ${set.name}` : ""}: ${lines.join("; ")}. Arrow keys read values.`;
    }

    function rows() {
      const lines = set.lines.filter(isShown), x = [...new Set(lines.flatMap(line => data.steps[line.x]))].sort((a, b) => a - b);
      const some = [...new Set(Array.from({ length: 20 }, (_, n) => x[Math.round(x.length ** (n / 19)) - 1]))];
      const at = (line, step) => {
        const place = data.steps[line.x].findLastIndex(each => each <= step);
        return place < 0 ? "-" : short(line.y[place]);
      };
      return [["step", ...lines.map(line => line.label)], ...some.map(step => [step.toLocaleString("en"), ...lines.map(line => at(line, step))])];
    }

    box.addEventListener("keydown", event => {
      const n = plot.data[0].length, idx = plot.cursor.idx ?? n - 1;
      const to = { ArrowLeft: Math.max(0, idx - 1), ArrowRight: Math.min(n - 1, idx + 1), Home: 0, End: n - 1 }[event.key];
      if (event.key === "Escape") { reset(); plot.setCursor({ left: -10, top: -10 }); }
      if (to === undefined) return;
      event.preventDefault();
      plot.setCursor({ left: plot.valToPos(plot.data[0][to], "x"), top: HEIGHT / 2 });
    });
    choose();
    return { draw, resize: () => { if (plot && box.clientWidth) plot.setSize({ width: box.clientWidth, height: HEIGHT }); } };
  }

  // viridis by five of its colours, which print and are told apart by the colour-blind
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  function shade(share) {
    const at = Math.min(.9999, Math.max(0, share)) * (RAMP.length - 1), low = Math.floor(at);
    return `rgb(${RAMP[low].map((each, n) => Math.round(each + (RAMP[low + 1][n] - each) * (at - low))).join(",")})`;
  }

  function heatMap(figure, spec) {
    let set = spec.sets[0], at = null;
    const choices = make("div", { className: "choices" }), said = make("p", { ariaLive: "polite" });
    const canvas = make("canvas"), box = make("div", { className: "plot", tabIndex: 0, role: "img" }, canvas);
    const ramp = make("div", { className: "ramp" }), scale = make("p", { className: "ends" });
    if (spec.sets.length > 1) choices.append(chooser("show", spec.sets.map(each => each.name), n => { set = spec.sets[n]; draw(); }));
    figure.append(make("p", { textContent: `${spec.about} Depth upwards, steps to the right.` }), choices, box, ramp, scale, said, details(rows));
    const small = make("small");
    figure.firstChild.append(" ", small);
    const LEFT = 44, BOTTOM = 24, place = step => isLog ? Math.log(Math.max(1, step)) : step;

    function bounds() {
      const all = set.rows.flat().filter(value => value != null && (!spec.log || value > 0)), f = spec.log ? Math.log : value => value;
      const low = Math.min(...all), high = Math.max(...all);
      return { low, high, share: value => high > low ? (f(value) - f(low)) / (f(high) - f(low)) : .5 };
    }
    function columns(width) {  // where the columns begin and end
      const x = set.steps.map(place), n = x.length, span = x[n - 1] - x[0];
      if (n === 1 || !span) return [[LEFT, width]];
      const edges = [x[0], ...x.slice(1).map((each, i) => (each + x[i]) / 2), x[n - 1]].map(each => LEFT + (each - x[0]) / span * (width - LEFT));
      return x.map((_, i) => [edges[i], edges[i + 1]]);
    }
    function draw() {
      const width = printing ? PRINTED : box.clientWidth || 600, ratio = devicePixelRatio, ctx = canvas.getContext("2d");
      small.textContent = set.name;
      canvas.width = width * ratio; canvas.height = HEIGHT * ratio;
      canvas.style.width = `${width}px`; canvas.style.height = `${HEIGHT}px`;
      ctx.scale(ratio, ratio);
      const { low, high, share } = bounds(), cells = columns(width), n = set.depths.length, tall = (HEIGHT - BOTTOM) / n;
      set.rows.forEach((row, r) => row.forEach((value, c) => {
        if (value == null) return;
        ctx.fillStyle = shade(share(value));
        ctx.fillRect(cells[c][0], HEIGHT - BOTTOM - (r + 1) * tall, Math.max(1, cells[c][1] - cells[c][0] + .5), tall + .5);
      }));
      ctx.fillStyle = colour("dim"); ctx.font = "12px system-ui, sans-serif"; ctx.textAlign = "right"; ctx.textBaseline = "middle";
      const every = Math.ceil(n / 12);
      set.depths.forEach((depth, r) => { if (r % every === 0 || r === n - 1 && tall > 14) ctx.fillText(depth, LEFT - 6, HEIGHT - BOTTOM - (r + .5) * tall); });
      ctx.textBaseline = "top"; ctx.textAlign = "center";
      let free = 0;
      set.steps.forEach((step, c) => {
        const middle = (cells[c][0] + cells[c][1]) / 2, label = steps(step), half = ctx.measureText(label).width / 2;
        const x = Math.min(width - half, Math.max(LEFT + half, middle));
        if (x - half > free) { ctx.fillText(label, x, HEIGHT - BOTTOM + 6); free = x + half + 14; }
      });
      if (at) { ctx.strokeStyle = colour("ink"); ctx.lineWidth = 2; ctx.strokeRect(cells[at[1]][0], HEIGHT - BOTTOM - (at[0] + 1) * tall, cells[at[1]][1] - cells[at[1]][0], tall); }
      ramp.style.background = `linear-gradient(90deg, ${RAMP.map((_, i) => shade(i / (RAMP.length - 1))).join(",")})`;
      const beside = Object.entries(spec.controls).map(([name, value]) => `${name} ${short(value)}`).join(", ");
      scale.replaceChildren(make("span", { textContent: short(low) }), ...(beside ? [make("span", { textContent: `without training: ${beside}` })] : []), make("span", { textContent: short(high) }));
      const latest = set.rows.map((row, r) => `depth ${set.depths[r]} ${short(row.at(-1))}`);
      box.setAttribute("aria-label", `${spec.title}, ${set.name} at step ${set.steps.at(-1)}: ${latest.join(", ")}. Arrow keys read values.`);
    }
    function tell() {
      said.textContent = at ? `step ${set.steps[at[1]].toLocaleString("en")}, depth ${set.depths[at[0]]}: ${short(set.rows[at[0]][at[1]])}` : "";
      draw();
    }
    canvas.addEventListener("pointermove", event => {
      const cells = columns(canvas.clientWidth), n = set.depths.length;
      const c = cells.findIndex(([start, end]) => event.offsetX >= start && event.offsetX <= end);
      const r = Math.floor((HEIGHT - BOTTOM - event.offsetY) / (HEIGHT - BOTTOM) * n);
      at = c >= 0 && r >= 0 && r < n ? [r, c] : null;
      tell();
    });
    canvas.addEventListener("pointerleave", () => { at = null; tell(); });
    box.addEventListener("keydown", event => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
      if (!move) return;
      event.preventDefault();
      const [r, c] = at || [0, set.steps.length - 1];
      at = at ? [Math.min(set.depths.length - 1, Math.max(0, r + move[0])), Math.min(set.steps.length - 1, Math.max(0, c + move[1]))] : [r, c];
      tell();
    });
    function rows() {
      const head = ["step", ...set.depths.map(depth => `depth ${depth}`)];
      return [head, ...set.steps.map((step, c) => [step.toLocaleString("en"), ...set.rows.map(row => short(row[c]))])];
    }
    return { draw, resize: draw };
  }

  for (const kind of ["chart", "map"])
    for (const figure of document.querySelectorAll(`figure[data-${kind}]`)) {
      const [section, number] = figure.dataset[kind].split("/"), spec = data.sections[section][`${kind}s`][number];
      const made = kind === "chart" ? lineChart(figure, spec) : heatMap(figure, spec);
      if (kind === "chart" && spec.sets.some(set => set.lines.filter(line => line.style === "line").length > FEW)) figure.classList.add("broad");
      drawers.push({ figure, ...made, isDrawn: false });
    }
  const drawOne = drawer => { drawer.isDrawn = true; drawer.draw(); };
  const drawAgain = () => drawers.filter(drawer => drawer.isDrawn).forEach(drawOne);
  const watcher = new IntersectionObserver(found => found.filter(each => each.isIntersecting).forEach(each => {
    watcher.unobserve(each.target);
    drawOne(drawers.find(drawer => drawer.figure === each.target));
  }), { rootMargin: "400px" });
  drawers.forEach(drawer => watcher.observe(drawer.figure));

  const axis = document.getElementById("axis"), theme = document.getElementById("theme");
  const showAxis = () => { axis.textContent = `steps: ${isLog ? "log" : "linear"}`; };
  axis.addEventListener("click", () => { isLog = !isLog; kept("genesis-axis", isLog ? "log" : "linear"); showAxis(); drawAgain(); });
  const themes = ["", "light", "dark"];
  const showTheme = name => {
    name ? root.dataset.theme = name : delete root.dataset.theme;
    theme.textContent = `colours: ${name || "as the system"}`;
  };
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "") + 1) % themes.length];
    kept("genesis-theme", next); showTheme(next); drawAgain();
  });
  showTheme(themes.includes(kept("genesis-theme")) ? kept("genesis-theme") : "");
  showAxis();
  document.querySelector(".controls").hidden = false;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    drawers.filter(drawer => drawer.isDrawn).forEach(drawer => drawer.resize());
  });
  addEventListener("beforeprint", () => { printing = true; root.dataset.theme = "light"; drawers.forEach(drawOne); });
  addEventListener("afterprint", () => { printing = false; showTheme(kept("genesis-theme") || ""); drawAgain(); });
  if (data.live) setTimeout(() => location.reload(), 60000);
})();
