"use strict";
// The browser of questions. Rows are as reports/questions.py describes them. Every text that comes
// from data or models is set as textContent, so nothing in it is ever read as markup.
(async () => {
  const [TASK, NUMBER, HASH, QUESTION, OPTIONS, TARGET, ANSWERS, SUBJECT, ORDER] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [RIGHT, VALUE, PREDICTION, REASONING, OUTPUT, TOKENS, PROBLEM, TRUNCATED, SCORES, MOVED] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const PAGE = 50;
  const at = (id) => document.getElementById(id);
  if (!at("browser")) return;
  at("reading").hidden = false;
  if (typeof DecompressionStream === "undefined") {
    at("reading").textContent = "This browser cannot unpack the questions (it has no DecompressionStream).";
    return;
  }
  const { tasks, models, tones, subjects, orders, couples } = JSON.parse(at("about").textContent);
  const rows = [];
  const texts = []; // of each row, in lower case, for the search

  const painted = () => new Promise((resolve) => setTimeout(resolve));
  await painted();
  for (const part of document.querySelectorAll("script.part")) {
    for (const row of await unpack(part.textContent)) {
      rows.push(row);
      texts.push(textOf(row));
    }
    part.remove();
    await painted();
  }

  async function unpack(text) {
    const packed = atob(text);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function textOf(row) {
    const parts = [tasks[row[TASK]], row[NUMBER], row[HASH], row[QUESTION], ...row[OPTIONS]];
    if (row[SUBJECT] !== null) parts.push(subjects[row[SUBJECT]]);
    if (typeof row[TARGET] === "string") parts.push(row[TARGET]);
    for (const one of row[ANSWERS]) {
      if (one) parts.push(one[REASONING], one[OUTPUT], typeof one[PREDICTION] === "string" ? one[PREDICTION] : "");
    }
    return parts.join("\n").toLowerCase();
  }

  // -- filters -------------------------------------------------------------------------------------

  const rightOf = (row, model) => (row[ANSWERS][model] ? row[ANSWERS][model][RIGHT] : null);
  const pairOf = (a, b, first, second) => (row) => rightOf(row, a) === first && rightOf(row, b) === second;
  const results = new Map([["", null]]);
  const some = (field) => (row) => row[ANSWERS].some((one) => one && one[field]);
  const answers = new Map([
    ["", null],
    ["not read", some(PROBLEM)],
    ["truncated", some(TRUNCATED)],
    ["with reasoning", some(REASONING)],
    ["depends on the options' order", some(MOVED)],
  ]);

  function offer(select, entries, into) {
    for (const [name, test] of entries) {
      const key = String(into.size);
      into.set(key, test);
      select.append(el("option", { value: key }, name));
    }
  }
  for (const [a, b] of couples) {
    const group = el("optgroup", { label: `${models[a]} → ${models[b]}` });
    offer(group, [
      [`${models[a]} wrong → ${models[b]} right`, pairOf(a, b, 0, 1)],
      [`${models[a]} right → ${models[b]} wrong`, pairOf(a, b, 1, 0)],
      ["both wrong", pairOf(a, b, 0, 0)],
      ["both right", pairOf(a, b, 1, 1)],
      ["another answer", (row) => {
        const [one, two] = [row[ANSWERS][a], row[ANSWERS][b]];
        return one && two && one[RIGHT] !== null && one[PREDICTION] !== two[PREDICTION];
      }],
    ], results);
    at("result").append(group);
  }
  models.forEach((name, model) => {
    const group = el("optgroup", { label: name });
    offer(group, [
      [`${name} wrong`, (row) => rightOf(row, model) === 0],
      [`${name} right`, (row) => rightOf(row, model) === 1],
    ], results);
    at("result").append(group);
  });
  const choices = (id, names) => {
    names.forEach((name, place) => at(id).append(el("option", { value: String(place) }, name)));
    at(id).parentElement.hidden = names.length < 2;
  };
  choices("task", tasks);
  choices("subject", subjects);
  for (let order = 1; order < orders; order++) {
    at("order").append(el("option", { value: String(order) }, `shifted by ${order}`));
  }
  if (orders > 1) at("order").append(el("option", { value: "" }, "in every order"));
  else at("order").parentElement.hidden = true;
  for (const [name, test] of answers) {
    if (name && rows.some(test)) at("answer").append(el("option", { value: name }, name));
  }
  if (at("answer").length === 1) at("answer").parentElement.hidden = true;

  let found = [];
  let chosen = -1; // place in found
  let start = 0; // of the page shown

  function filter() {
    const words = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosenOf = (id) => (at(id).value === "" ? -1 : Number(at(id).value));
    const [task, subject, order] = ["task", "subject", "order"].map(chosenOf);
    const result = results.get(at("result").value);
    const answer = answers.get(at("answer").value);
    found = [];
    let total = 0;
    for (let i = 0; i < rows.length; i++) {
      if (order >= 0 && rows[i][ORDER] !== order) continue;
      total += 1;
      if (task >= 0 && rows[i][TASK] !== task) continue;
      if (subject >= 0 && rows[i][SUBJECT] !== subject) continue;
      if (result && !result(rows[i])) continue;
      if (answer && !answer(rows[i])) continue;
      if (words.every((word) => texts[i].includes(word))) found.push(i);
    }
    const all = total === 1 ? "1 question" : `${total.toLocaleString("en")} questions`;
    at("found").textContent = `${found.length.toLocaleString("en")} of ${all}`;
    start = 0;
    choose(found.length ? 0 : -1);
  }

  // -- the list ------------------------------------------------------------------------------------

  function choose(place) {
    chosen = place;
    if (chosen >= 0) start = chosen - (chosen % PAGE);
    const items = found.slice(start, start + PAGE).map((row, offset) => item(rows[row], start + offset));
    at("list").replaceChildren(...items);
    const active = items[chosen - start];
    if (active) {
      at("list").setAttribute("aria-activedescendant", active.id);
      // Not scrollIntoView, which would move the page too.
      const { offsetTop: top, offsetHeight: height } = active;
      const list = at("list");
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
    } else {
      at("list").removeAttribute("aria-activedescendant");
    }
    const last = Math.min(start + PAGE, found.length);
    at("place").textContent = found.length ? `${start + 1}–${last} of ${found.length}` : "none";
    at("before").disabled = start === 0;
    at("after").disabled = last >= found.length;
    at("detail").replaceChildren(...(active ? detail(rows[found[chosen]]) : []));
  }

  function item(row, place) {
    const marks = row[ANSWERS].map((one, model) => {
      if (!one || one[RIGHT] === null) return el("span", { class: "mark", "aria-hidden": "true" }, "–");
      const said = one[PROBLEM] ? "not read" : one[RIGHT] ? "right" : "wrong";
      return el("span", { class: `mark${tones[model]}` },
        el("span", { "aria-hidden": "true" }, one[PROBLEM] ? "?" : one[RIGHT] ? "✓" : "✗"),
        el("span", { class: "unseen" }, `${models[model]} ${said}, `));
    });
    const shown = el("li", { role: "option", id: `q${place}`, "aria-selected": String(place === chosen) },
      el("span", { class: "marks" }, ...marks),
      el("bdi", {}, (row[QUESTION] ?? `Question ${row[HASH]}`).slice(0, 200)));
    if (tasks.length > 1) shown.append(el("small", {}, tasks[row[TASK]]));
    shown.addEventListener("click", () => choose(place));
    return shown;
  }

  // -- one question --------------------------------------------------------------------------------

  function detail(row) {
    const options = row[OPTIONS];
    const parts = [el("h3", {}, tasks[row[TASK]], " ", el("small", {}, about(row)))];
    if (row[QUESTION] !== null) parts.push(el("p", { class: "prose", dir: "auto" }, row[QUESTION]));
    else parts.push(el("p", { class: "quiet" }, "Its text is left out."));
    if (options.length) parts.push(table(row));
    if (typeof row[TARGET] === "string") {
      parts.push(el("p", {}, el("span", { class: "quiet" }, "Right answer: "), el("bdi", {}, row[TARGET])));
    }
    const said = row[ANSWERS].map((one, model) => one && answer(row, one, model)).filter(Boolean);
    parts.push(el("div", { class: "answers" }, ...said));
    return parts;
  }

  function about(row) {
    const parts = [`question ${row[NUMBER]}`, `hash ${row[HASH]}`];
    if (row[SUBJECT] !== null) parts.unshift(subjects[row[SUBJECT]]);
    if (row[ORDER]) parts.push(`options shifted by ${row[ORDER]}`);
    return parts.join(", ");
  }

  function table(row) {
    const asked = models.map((_, model) => model).filter((model) => row[ANSWERS][model]);
    const head = el("tr", {}, el("th", { scope: "col" }, "Option"),
      ...asked.map((model) => el("th", { scope: "col" }, key(model))));
    const shares = asked.map((model) => softmax(row[ANSWERS][model][SCORES]));
    const lines = row[OPTIONS].map((option, place) => el("tr", {},
      el("td", {}, el("bdi", {}, option), row[TARGET] === place ? el("small", {}, " right answer") : ""),
      ...asked.map((model, column) => {
        const one = row[ANSWERS][model];
        const cell = el("td", { class: `bars${tones[model]}` });
        if (one[SCORES].length) cell.append(bar(shares[column][place]), one[SCORES][place].toFixed(2).replace("-", "−"));
        if (one[PREDICTION] === place) cell.append(el("small", {}, " chosen"));
        return cell;
      })));
    const made = el("table", { class: "options" }, el("thead", {}, head), el("tbody", {}, ...lines));
    const hint = row[ANSWERS].some((one) => one && one[SCORES].length)
      ? el("p", { class: "quiet" }, "Log-likelihoods in nats; a bar is the option's share among the options.") : "";
    return el("div", {}, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Options" }, made), hint);
  }

  function answer(row, one, model) {
    const state = one[RIGHT] === null ? one[VALUE]?.toFixed(3) : one[RIGHT] ? "right" : "wrong";
    const extra = [one[PROBLEM], one[TRUNCATED] ? "truncated" : "", one[MOVED] ? "depends on the options' order" : ""]
      .filter(Boolean);
    const prediction = typeof one[PREDICTION] === "number" ? row[OPTIONS][one[PREDICTION]] : one[PREDICTION];
    const shown = el("div", { class: `answer${tones[model]}` },
      el("h4", {}, key(model), `: ${state ?? "–"}${extra.length ? ` (${extra.join(", ")})` : ""}`));
    if (prediction !== null) {
      shown.append(el("p", {}, el("span", { class: "quiet" }, "Answer: "), el("bdi", {}, prediction),
        one[TOKENS] === null ? "" : el("small", {}, ` ${one[TOKENS]} tokens`)));
    }
    if (one[REASONING]) {
      shown.append(el("details", {}, el("summary", {}, "Reasoning"), el("pre", { dir: "auto", tabindex: "0" }, one[REASONING])));
    }
    if (one[OUTPUT]) shown.append(el("pre", { dir: "auto", tabindex: "0" }, one[OUTPUT]));
    return shown;
  }

  const key = (model) => el("span", { class: `key${tones[model]}` }, models[model]);

  function softmax(scores) {
    const top = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  }

  function bar(share) {
    const svg = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const box = svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
    box.append(svg("rect", { class: "all", width: 100, height: 8 }), svg("rect", { width: (100 * share).toFixed(1), height: 8 }));
    return box;
  }

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
    return made;
  }

  // -- keys ----------------------------------------------------------------------------------------

  const moves = {
    ArrowDown: () => chosen + 1, ArrowUp: () => chosen - 1, PageDown: () => start + PAGE,
    PageUp: () => start - PAGE, Home: () => 0, End: () => found.length - 1,
  };
  at("list").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      at("detail").focus();
    } else if (moves[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      if (found.length) choose(Math.max(0, Math.min(moves[event.key](), found.length - 1)));
    }
  });
  at("detail").addEventListener("keydown", (event) => {
    if (event.key === "Escape") at("list").focus();
  });
  at("find").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      at("list").focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      at("find").focus();
    }
  });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("find").addEventListener("input", filter);
  for (const name of ["task", "subject", "order", "result", "answer"]) at(name).addEventListener("change", filter);
  at("before").addEventListener("click", () => choose(Math.max(0, start - PAGE)));
  at("after").addEventListener("click", () => choose(Math.min(found.length - 1, start + PAGE)));

  at("reading").hidden = true;
  at("browser").hidden = false;
  filter();
})();
