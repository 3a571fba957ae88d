"use strict";
(function () {
  var root = document.documentElement;

  function make(tag, text, attributes) {
    var node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    Object.keys(attributes || {}).forEach(function (name) { node.setAttribute(name, attributes[name]); });
    return node;
  }
  function all(selector, within) { return Array.from((within || document).querySelectorAll(selector)); }
  function json(id) { return JSON.parse(document.getElementById(id).textContent); }

  // ---- light and dark
  (function () {
    var button = document.getElementById("theme"), dark = window.matchMedia("(prefers-color-scheme: dark)");
    function now() { return root.dataset.theme || (dark.matches ? "dark" : "light"); }
    function label() { button.textContent = now() === "dark" ? "Light theme" : "Dark theme"; }
    try { var kept = localStorage.getItem("bench-theme"); if (kept) root.dataset.theme = kept; } catch (e) { /* from disk */ }
    button.hidden = false;
    label();
    dark.addEventListener("change", label);
    button.addEventListener("click", function () {
      root.dataset.theme = now() === "dark" ? "light" : "dark";
      try { localStorage.setItem("bench-theme", root.dataset.theme); } catch (e) { /* from disk */ }
      label();
    });
  })();

  // ---- tables: sort by a column, filter by words
  function sortable(table) {
    var body = table.tBodies[0], heads = all("thead th", table);
    if (body.rows.length < 2) return;
    heads.forEach(function (head, column) {
      var button = make("button", null, { type: "button" });
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var rows = Array.from(body.rows).map(function (row) { return [row, key(row.cells[column])]; });
        rows.sort(function (a, b) { return compare(a[1], b[1], down ? -1 : 1); });
        rows.forEach(function (pair) { body.appendChild(pair[0]); });
      });
    });
  }
  function key(cell) {
    var value = cell.dataset.v;
    return value === undefined ? cell.textContent.trim() : Number(value);
  }
  // Numbers before words; what is missing goes last either way.
  function compare(a, b, sign) {
    if (a === "–" || b === "–") return (a === "–") - (b === "–");
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
    return sign * a.localeCompare(b, undefined, { numeric: true });
  }
  function filtered(table) {
    var box = make("div", null, { class: "filter" }), id = table.id + "-filter";
    var input = make("input", null, { type: "search", id: id, autocomplete: "off", spellcheck: "false" });
    var count = make("span", "", { role: "status" });
    box.append(make("label", "Filter", { for: id }), input, count);
    table.parentElement.before(box);
    function apply() {
      var words = input.value.toLowerCase().split(/\s+/).filter(Boolean), group = table.dataset.only, shown = 0;
      all("tbody tr", table).forEach(function (row) {
        var text = row.textContent.toLowerCase();
        var keep = (!group || row.dataset.group === group) && words.every(function (w) { return text.includes(w); });
        row.hidden = !keep;
        shown += keep;
      });
      count.textContent = words.length || group ? shown + " of " + table.tBodies[0].rows.length : "";
    }
    input.addEventListener("input", function () { delete table.dataset.only; apply(); });
    table.addEventListener("only", apply);
  }
  all("main table").forEach(function (table) {
    if (table.closest("#explore")) return;
    sortable(table);
    if (table.hasAttribute("data-filtered")) filtered(table);
  });

  // ---- from a figure to the records behind it
  function records(group) {
    var row = document.querySelector('tr[data-group="' + CSS.escape(group) + '"]');
    if (!row) return;
    var table = row.closest("table");
    var input = document.getElementById(table.id + "-filter");
    if (input) input.value = "";
    table.dataset.only = group;
    table.dispatchEvent(new Event("only"));
    table.parentElement.scrollIntoView({ block: "start" });
    table.parentElement.focus({ preventScroll: true });
  }
  document.addEventListener("click", function (event) {
    var link = event.target.closest("a[data-records]");
    if (link) { event.preventDefault(); records(link.dataset.records); }
  });

  // ---- downloads
  all("script[data-file]").forEach(function (script) {
    var name = script.dataset.file, button = make("button", "Save " + name, { type: "button" });
    button.addEventListener("click", function () {
      var url = URL.createObjectURL(new Blob([JSON.parse(script.textContent)], { type: "text/plain" }));
      var link = make("a", "", { href: url, download: name });
      link.click();
      setTimeout(function () { URL.revokeObjectURL(url); }, 1000);
    });
    document.getElementById("downloads").append(" ", button);
  });

  // ---- everything opens for print
  window.addEventListener("beforeprint", function () { all("details").forEach(function (d) { d.open = true; }); });

  // ---- the explorer
  var place = document.getElementById("explore");
  if (!place) return;
  var data = json("explorer-data"), basis = "rent", values = { mix: null }, inputs = {}, lines = {};
  var form = place.querySelector("form");

  function short(value) {
    if (value === null) return "–";
    if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US");
    return value.toPrecision(3);
  }
  function plain(value) { return Number(value.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 6 }); }
  function wanted(slider) {
    if (slider.name === "watts_busy" && data.measured_power) return false;
    if (slider.name === "watts_host" && !data.measured_power) return false;
    return slider.basis === "both" || slider.basis === basis;
  }
  function field(slider) {
    var line = make("div", null, { class: "slider" }), id = "set-" + slider.name;
    var label = make("label", slider.label, { for: id, id: id + "-label" });
    if (slider.unit) label.append(make("small", slider.unit));
    var number = make("input", null, { type: "number", id: id, min: slider.least, max: slider.most, step: "any", inputmode: "decimal" });
    var range = make("input", null, { type: "range", min: slider.least, max: slider.most, step: "any", "aria-labelledby": id + "-label", id: id + "-range" });
    function show(from) {
      if (from !== number) number.value = Number(values[slider.name].toPrecision(4));
      if (from !== range) range.value = values[slider.name];
    }
    function take(event) {
      var value = Number(event.target.value);
      if (event.target.value === "" || !(value >= slider.least)) return;
      if (slider.name === "utilization" && value > 1) return;
      values[slider.name] = value;
      show(event.target);
      update();
    }
    number.addEventListener("input", take);
    range.addEventListener("input", take);
    values[slider.name] = slider.value;
    line.append(label, range, number);
    lines[slider.name] = line;
    inputs[slider.name] = slider;
    show();
    return line;
  }
  function build() {
    var pick = make("fieldset"), legend = make("legend", "The machine is");
    pick.append(legend);
    [["rent", "rented"], ["own", "owned"]].forEach(function (pair) {
      var label = make("label"), radio = make("input", null, { type: "radio", name: "basis", value: pair[0] });
      radio.checked = pair[0] === basis;
      radio.addEventListener("change", function () { basis = pair[0]; update(); });
      label.append(radio, " " + pair[1]);
      pick.append(label);
    });
    form.append(pick);
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    data.sliders.forEach(function (slider) { form.append(field(slider)); });
    var measured = make("label", null, { class: "mix" }), box = make("input", null, { type: "checkbox", id: "own-mix" });
    measured.append(box, " My own mix of input and output");
    form.append(measured);
    var first = data.rows[0], start = first.n_prompt / first.n_gen;
    var mix = field({ name: "mix", label: "Input tokens for each output token", unit: "", basis: "both", value: start, least: 0.05, most: Math.max(20, 2 * start), low: start, high: start });
    form.append(mix);
    values.mix = null;
    mix.hidden = true;
    box.addEventListener("change", function () {
      values.mix = box.checked ? Number(document.getElementById("set-mix").value) : null;
      mix.hidden = !box.checked;
      update();
    });
  }
  // How far one assumption alone moves the cost, the others held.
  function moved(row, name, value) {
    var tried = Object.assign({}, values);
    tried[name] = value;
    return Cost.price(basis, tried, row, row.total_tok_s).cost;
  }
  function drivers(row) {
    var found = data.sliders.filter(wanted).map(function (slider) {
      var name = slider.name, now = values[name], low = Math.min(slider.low, now), high = Math.max(slider.high, now);
      var at = [moved(row, name, low), moved(row, name, high)];
      var up = Math.min(now * 1.001, slider.most), down = Math.max(now * 0.999, slider.least);
      var slope = up > down && down > 0 ? Math.log(moved(row, name, up) / moved(row, name, down)) / Math.log(up / down) : 0;
      return { label: slider.label, low: low, high: high, swing: Math.max(at[0], at[1]) / Math.min(at[0], at[1]), slope: slope, source: slider.source };
    });
    if (row.low !== null) found.push({ label: "Measured throughput (95% interval)", low: row.low, high: row.high, swing: row.high / row.low, slope: -1, source: "" });
    return found.filter(function (one) { return one.swing > 1.0005 || Math.abs(one.slope) > 0.0005; })
      .sort(function (a, b) { return b.swing - a.swing || Math.abs(b.slope) - Math.abs(a.slope); });
  }
  function update() {
    Object.keys(lines).forEach(function (name) { if (name !== "mix") lines[name].hidden = !wanted(inputs[name]); });
    var priced = data.rows.map(function (row) {
      return { row: row, at: Cost.price(basis, values, row, row.total_tok_s) };
    });
    var known = priced.filter(function (one) { return one.at.cost !== null; });
    var body = document.querySelector("#explore-costs tbody");
    body.replaceChildren.apply(body, priced.map(function (one) {
      var line = make("tr"), row = one.row, head = make("th", row.name, { scope: "row" });
      if (!row.valid) head.append(make("small", row.reasons.join(", ")));
      var cost = make("td", short(one.at.cost), { class: "n", "data-cost": one.at.cost === null ? "" : one.at.cost });
      if (one.at.cost === null) cost.append(make("small", "no split for another mix"));
      else if (row.low !== null) {
        cost.append(make("small", short(one.at.cost * row.total_tok_s / row.high) + " to " + short(one.at.cost * row.total_tok_s / row.low)));
      }
      var link = make("a", "show", { href: "#" + row.records, "data-records": row.records, "aria-label": "show the records of " + row.name });
      var last = make("td", null, { class: "n" });
      last.append(link);
      line.append(head, cost, make("td", short(one.at.input), { class: "n" }), make("td", short(one.at.output), { class: "n" }), last);
      return line;
    }));
    known.sort(function (a, b) { return a.at.cost - b.at.cost; });
    var best = known.find(function (one) { return one.row.valid; }) || known[0];
    var list = best ? drivers(best.row) : [];
    var said = document.getElementById("dominant");
    said.textContent = list.length
      ? list[0].label + " dominates: over its range it changes the cost " + plain(list[0].swing) + "-fold (" + best.row.name + ")."
      : "Nothing here changes the cost.";
    var table = document.querySelector("#explore-drivers tbody");
    table.replaceChildren.apply(table, list.map(function (one) {
      var line = make("tr");
      line.append(make("th", one.label, { scope: "row" }), make("td", plain(one.low) + " to " + plain(one.high)),
        make("td", short(one.swing) + "×", { class: "n" }), make("td", (one.slope >= 0 ? "+" : "−") + Math.abs(one.slope).toFixed(2) + "%", { class: "n" }));
      return line;
    }));
    var sources = document.getElementById("explore-sources");
    sources.replaceChildren.apply(sources, list.filter(function (one) { return one.source; })
      .map(function (one) { return make("li", one.label + ": " + one.source); }));
  }
  build();
  update();
  place.hidden = false;
  document.getElementById("explore-off").hidden = true;
})();
