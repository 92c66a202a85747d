// The explorer: pick a run and a test sample, see its prediction and what decided it.
// The address keeps the choice: #sample=17&run=1&show=wrong. A sample goes by its number in the
// test set; inside, `row` is its place among a run's stored samples. All text enters as text.
(() => {
  "use strict";
  const { classes, sheet, runs } = JSON.parse(document.getElementById("report-data").textContent);
  const at = (id) => document.getElementById(id);
  const PAGE = 240; // thumbnails added at a time
  const rowOf = runs.map((run) => new Map(run.index.map((number, row) => [number, row])));
  const predicted = (run, row) => run.classes[row][0];
  const confidence = (run, row) => run.probabilities[row][0];
  const isWrong = (run, row) => predicted(run, row) !== run.labels[row];
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

  const withReasons = runs.findIndex((run) => run.reasons);
  const state = { run: Math.max(0, withReasons), row: 0, show: "all", rows: [], shown: 0 };
  const current = () => runs[state.run];

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  function tile(place, size, name) {
    const node = element("span", { class: "tile", role: "img", "aria-label": name });
    node.style.width = node.style.height = `${size}px`;
    if (place < 0) {
      node.style.backgroundImage = "none";
      node.classList.add("empty");
      return node;
    }
    if (sheet.side < size) node.classList.add("sharp");
    const x = (place % sheet.columns) * size, y = Math.floor(place / sheet.columns) * size;
    node.style.backgroundSize = `${sheet.columns * size}px ${sheet.rows * size}px`;
    node.style.backgroundPosition = `${-x}px ${-y}px`;
    return node;
  }

  function bar(share, kind = "") {
    const fill = element("i");
    fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    return element("div", { class: `bar ${kind}` }, fill);
  }

  // The list of samples.

  const disagree = (row) => {
    const number = current().index[row];
    const said = runs.map((run, r) => [run, rowOf[r].get(number)]).filter(([, other]) => other !== undefined);
    return new Set(said.map(([run, other]) => predicted(run, other))).size > 1;
  };

  function listed() {
    const run = current(), rows = run.index.map((_, row) => row);
    if (state.show === "wrong") return rows.filter((row) => isWrong(run, row));
    if (state.show === "doubt") return rows.sort((a, b) => confidence(run, a) - confidence(run, b));
    if (state.show === "split") return rows.filter(disagree);
    return rows;
  }

  function fillList() {
    state.rows = listed();
    state.shown = 0;
    at("samples").replaceChildren();
    showMore();
    at("count").textContent = `${state.rows.length.toLocaleString("en")} of ${current().index.length.toLocaleString("en")} samples`;
  }

  function showMore() {
    const run = current(), box = at("samples"), last = box.querySelector("button");
    if (last) last.remove();
    const rows = state.rows.slice(state.shown, state.shown + PAGE);
    box.append(...rows.map((row) => {
      const wrong = isWrong(run, row);
      const name = `Sample ${run.index[row]}, ${classes[run.labels[row]]}${wrong ? `, predicted ${classes[predicted(run, row)]}` : ""}`;
      const option = tile(run.tiles[row], 40, name);
      option.id = `option-${row}`;
      option.title = name;
      option.dataset.row = row;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", row === state.row);
      if (wrong) option.classList.add("wrong");
      return option;
    }));
    state.shown += rows.length;
    if (state.shown < state.rows.length) {
      const more = element("button", { type: "button" }, "Show more");
      more.addEventListener("click", showMore);
      box.append(more);
    }
  }

  // The chosen sample.

  function prediction(run, row) {
    const bars = element("div", { class: "bars" });
    const shown = run.classes[row].map((k, rank) => [k, run.probabilities[row][rank]]), truth = run.labels[row];
    if (!run.classes[row].includes(truth)) shown.push([truth, run.truth[row]]);
    shown.forEach(([k, share]) => {
      const isTrue = k === truth;
      bars.append(element("span", { class: isTrue && "true", title: classes[k] }, isTrue ? `✓ ${classes[k]}` : classes[k]),
        bar(share), element("span", {}, percent(share)));
    });
    if (run.reasons) {
      bars.append(element("span", {}, "no label"), bar(run.abstention[row], "none"), element("span", {}, percent(run.abstention[row])));
    }
    return bars;
  }

  function others(number) {
    const said = [];
    runs.forEach((run, r) => {
      const row = rowOf[r].get(number);
      if (r === state.run || row === undefined) return;
      said.push(`${run.name}: ${classes[predicted(run, row)]} (${percent(confidence(run, row))})`);
    });
    return said.length ? element("p", { class: "note" }, `Other runs say: ${said.join("; ")}.`) : "";
  }

  function cards(entries) {
    const largest = Math.max(...entries.map((entry) => entry.weight));
    return element("ul", { class: "cards" }, ...entries.map((entry) => {
      const card = element(entry.row === undefined ? "div" : "button", { class: `card ${entry.other ? "other" : ""}` },
        tile(entry.place, 64, entry.alt), ...entry.lines.map((line) => element("div", {}, line)),
        element("strong", {}, entry.text), bar(entry.weight / largest));
      if (entry.row !== undefined) {
        card.type = "button";
        card.addEventListener("click", () => choose(entry.row));
      }
      return element("li", {}, card);
    }));
  }

  function reasons(run, row) {
    const title = element("h3", {}, "The labelled examples that decided it");
    if (!run.reasons) {
      return [title, element("p", { class: "note" }, "None: this head is a linear map learned from all examples at once, so no labelled example stands behind a single prediction. A graph head has them.")];
    }
    const entries = [], guess = predicted(run, row);
    run.reasons.anchors[row].forEach((anchor, rank) => {
      const weight = run.reasons.weights[row][rank], label = run.anchors.labels[anchor];
      if (weight <= 0) return;
      entries.push({ place: run.anchors.tiles[anchor], weight, text: percent(weight), other: label !== guess,
        alt: `Labelled example of ${classes[label]}`, lines: [`labelled ${classes[label]}`] });
    });
    const sum = entries.reduce((total, entry) => total + entry.weight, 0), none = run.abstention[row];
    const rest = Math.max(0, 1 - sum - none);
    const text = entries.length
      ? `Labelled examples vote through the graph. These ${entries.length} carry ${percent(sum)}, all others together ${percent(rest)}, and ${percent(none)} reached no label: the three sum to 100 %. ${run.reasons.corrected ? "As few nodes are labelled, the head then corrects the classes' masses, so that its probabilities differ from the votes. " : ""}Dashed: of another class than predicted.`
      : "No labelled example reaches this sample through the graph.";
    return [title, element("p", { class: "note" }, text), entries.length ? cards(entries) : ""];
  }

  function neighbors(run, row) {
    if (!run.neighbors) return [];
    const entries = [];
    run.neighbors.nodes[row].forEach((node, rank) => {
      const weight = run.neighbors.weights[row][rank], anchor = node - run.index.length;
      if (weight <= 0) return;
      const shared = { weight, text: weight.toFixed(3) };
      if (anchor >= 0) {
        const label = classes[run.anchors.labels[anchor]];
        entries.push({ ...shared, place: run.anchors.tiles[anchor], alt: `Labelled example of ${label}`, lines: [`labelled ${label}`] });
      } else {
        const guess = classes[predicted(run, node)];
        entries.push({ ...shared, place: run.tiles[node], row: node, alt: `Sample ${run.index[node]}`, lines: [`sample ${run.index[node]}`, `predicted ${guess}`] });
      }
    });
    if (!entries.length) return [];
    return [element("h3", {}, "Its neighbours in the graph"),
      element("p", { class: "note" }, "The nodes it shares its heaviest edges with, and the weights of those edges."), cards(entries)];
  }

  function showDetail() {
    const run = current(), row = state.row, wrong = isWrong(run, row), number = run.index[row];
    const guess = classes[predicted(run, row)], truth = classes[run.labels[row]];
    const size = Math.max(1, Math.round(176 / sheet.side)) * sheet.side;
    at("detail").replaceChildren(
      element("div", { class: "sample" },
        tile(run.tiles[row], size, `Sample ${number}, of class ${truth}`),
        element("div", {},
          element("p", { class: `verdict ${wrong ? "wrong" : ""}` }, element("strong", {}, `Predicted ${guess}`), wrong ? `, wrong: it is ${truth}` : ", right"),
          element("p", { class: "note", style: "margin:0" }, `Sample ${number} of the test set. Confidence ${percent(confidence(run, row))}.`),
          prediction(run, row), others(number))),
      ...reasons(run, row), ...neighbors(run, row));
    Object.assign(at("detail").dataset, { sample: number, label: truth, predicted: guess });
  }

  // Choosing.

  function choose(row, { scroll = true, remember = true } = {}) {
    const box = at("samples"), before = box.querySelector('[aria-selected="true"]');
    if (before) before.setAttribute("aria-selected", "false");
    state.row = row;
    while (state.rows.indexOf(row) >= state.shown) showMore();
    const option = at(`option-${row}`);
    if (option) {
      option.setAttribute("aria-selected", "true");
      box.setAttribute("aria-activedescendant", option.id);
      if (scroll) box.scrollTop = option.offsetTop - box.offsetTop - box.clientHeight / 2;
    } else box.removeAttribute("aria-activedescendant");
    showDetail();
    const hash = new URLSearchParams({ sample: current().index[row], run: state.run, show: state.show });
    if (remember) history.replaceState(null, "", `#${hash}`);
  }

  function move(step) {
    const place = state.rows.indexOf(state.row) + step;
    if (place >= 0 && place < state.rows.length) choose(state.rows[place]);
  }

  function perLine() {
    const options = [...at("samples").querySelectorAll("[role=option]")];
    const next = options.findIndex((option) => option.offsetTop > options[0].offsetTop);
    return next > 0 ? next : Math.max(1, options.length);
  }

  function readAddress() {
    const hash = new URLSearchParams(location.hash.slice(1));
    if (!hash.has("sample")) return false;
    const run = Number(hash.get("run") ?? state.run), show = hash.get("show") ?? state.show;
    if (runs[run]) state.run = run;
    if ([...at("filter").options].some((option) => option.value === show)) state.show = show;
    at("run").value = state.run;
    at("filter").value = state.show;
    fillList();
    choose(rowOf[state.run].get(Number(hash.get("sample"))) ?? state.rows[0] ?? 0);
    return true;
  }

  at("run").append(...runs.map((run, r) => element("option", { value: r }, run.name)));
  if (runs.length > 1) at("filter").querySelector("[value=split]").hidden = at("filter").querySelector("[value=split]").disabled = false;
  at("run").value = state.run;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("run").addEventListener("change", (event) => {
    const number = current().index[state.row];
    state.run = Number(event.target.value);
    state.row = rowOf[state.run].get(number) ?? 0;
    fillList();
    choose(state.row);
  });
  at("filter").addEventListener("change", (event) => {
    state.show = event.target.value;
    fillList();
    choose(state.rows.length ? state.rows[0] : state.row);
  });
  at("search").addEventListener("input", (event) => {
    const row = rowOf[state.run].get(event.target.valueAsNumber);
    event.target.setCustomValidity(row === undefined && event.target.value ? "No such sample is stored." : "");
    event.target.reportValidity();
    if (row !== undefined) choose(row);
  });
  at("samples").addEventListener("click", (event) => {
    const option = event.target.closest("[data-row]");
    if (option) choose(Number(option.dataset.row), { scroll: false });
  });
  at("samples").addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perLine(), ArrowUp: -perLine(),
      Home: -state.rows.indexOf(state.row), End: state.rows.length - 1 - state.rows.indexOf(state.row) };
    if (event.key in steps) {
      event.preventDefault();
      move(steps[event.key]);
    }
  });
  addEventListener("hashchange", readAddress);

  if (readAddress()) {
    at("explorer").scrollIntoView({ behavior: "instant" });
  } else {
    fillList();
    choose(state.row, { remember: false });
  }
  document.documentElement.dataset.ready = "true";
})();
