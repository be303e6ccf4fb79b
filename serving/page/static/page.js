// The page: a client of the server it came from. All that is shown is text, never markup; the token stays in this variable.
"use strict";

const LIVE = 2000; // milliseconds between looks at the metrics
const MOST = 10; // classes that are shown, and
const NUMBERS = 12; // numbers of what is no distribution
const LEAST = 1.2e-38; // probability whose logarithm is taken
let token = "";
let told = null; // GET page/models
let model = null; // the one of them that is shown
let inputs = []; // what reads each of its inputs
let busy = false, again = false;
let looking = false;
let gone = false; // whether that is the problem that is shown
let before = null; // the metrics of the last look

const $ = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const digits = (number, most = 3) => !Number.isFinite(number) ? "–" : number && Math.abs(number) < 1e-3 ? number.toExponential(1)
  : number.toLocaleString("en", { maximumSignificantDigits: most });
const time = ms => ms === undefined ? "" : ms < 1 ? `${digits(ms * 1000)} µs` : `${digits(ms)} ms`;

class Gone extends Error {
  constructor() { super("The server does not answer. It may have been stopped, or the way to it is interrupted."); }
}

// -- asking the server ---------------------------------------------------------------------------------------------

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" }).catch(() => { throw new Gone(); });
  if (answer.status === 401) {
    $("token").hidden = false;
    $("secret").focus();
    throw new Error(token ? "The server does not know this token." : "");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `The server answers with ${answer.status}.`);
  return answer;
}

function problem(error) {
  gone = error instanceof Gone;
  $("live").classList.toggle("stale", gone);
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !(error && error.message);
}

/** The protocol's body: JSON, and behind it the bytes of files, each after its length. */
async function question() {
  const read = await Promise.all(inputs.map(each => each()));
  const files = read.filter(each => each.bytes);
  const described = read.map(({ bytes, ...rest }) => bytes ? { ...rest, parameters: { binary_data_size: bytes.length + 4 } } : rest);
  const head = new TextEncoder().encode(JSON.stringify({ inputs: described }));
  const lengths = files.map(({ bytes }) => { const four = new DataView(new ArrayBuffer(4)); four.setUint32(0, bytes.length, true); return four; });
  const body = new Blob([head, ...files.flatMap((file, i) => [lengths[i], file.bytes])]);
  return { method: "POST", body, headers: files.length ? { "Inference-Header-Content-Length": head.length } : {} };
}

async function answered(who, asked) {
  const began = performance.now();
  const answer = await call(`page/${who}/${encodeURIComponent(model.name)}`, asked);
  const { outputs } = await answer.json();
  const trip = performance.now() - began;
  const phases = answer.headers.get("Server-Timing").split(", ").map(each => each.split(";dur="));
  return { outputs, times: { ...Object.fromEntries(phases.map(([name, ms]) => [name, Number(ms)])), trip } };
}

/** One after the other, as they would take each other's time. A question that comes meanwhile is asked afterwards. */
async function ask() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do {
      again = false;
      const of = model, asked = await question();
      const student = await answered("student", asked);
      const shadow = told.shadow && await answered("shadow", asked);
      if (of === model) show(student, shadow);
    } while (again);
    problem();
  } catch (error) { unanswered(); problem(error); } finally { busy = false; }
}

/** An answer to another question is none to this one. */
function unanswered() {
  $("answer").replaceChildren();
  $("nothing").hidden = false;
  $("timing").hidden = true;
}

// -- the answer ----------------------------------------------------------------------------------------------------

function softmax(values) {
  const most = Math.max(...values), powers = values.map(value => Math.exp(value - most)), sum = powers.reduce((a, b) => a + b);
  return powers.map(power => power / sum);
}

/** By the kind of an output with classes or labels: its values as shares. */
const SHARES = {
  logits: softmax, probabilities: values => values, multilabel: values => values.map(value => 1 / (1 + Math.exp(-value))),
};

/** Pearson's r; NaN where one of them is constant. */
function correlation(one, other) {
  const centred = values => { const mean = values.reduce((a, b) => a + b) / values.length; return values.map(value => value - mean); };
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const [a, b] = [centred(one), centred(other)];
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function show(student, shadow) {
  const parts = student.outputs.flatMap(output => {
    const other = shadow && shadow.outputs.find(each => each.name === output.name).data;
    const kind = model.kinds[output.name], shares = SHARES[kind];
    const logits = values => kind === "probabilities" ? values.map(value => Math.log(Math.max(value, LEAST))) : values;
    const classes = shares && output.shape.length === 2 && output.data.length > 1;
    const same = other && other.every((value, i) => value === output.data[i]) ? "the same as the shadow's" : "another than the shadow's";
    const said = !other ? "" : kind === "tokens" ? same : output.data.length > 1 ? `r ${digits(correlation(logits(output.data), logits(other)), 4)} with the shadow` : "";
    return [make("h3", {}, output.name, make("span", { textContent: said })), ...(classes ? bars(output.data, other, shares)
      : output.datatype === "BYTES" ? texts(output.data, other) : numbers(output.data, other))];
  });
  $("answer").replaceChildren(...parts);
  $("nothing").hidden = true;
  $("timing").hidden = false;
  const rows = [["student", "student", student.times], ...(shadow ? [["shadow", told.shadow, shadow.times]] : [])];
  $("timing").tBodies[0].replaceChildren(...rows.map(([who, name, times]) => make("tr", {},
    make("th", {}, make("i", { className: `key ${who}` }), name),
    ...["prepare", "queue", "compute", "trip"].map(phase => make("td", { className: "n", textContent: time(times[phase]) })))));
}

function bars(data, other, shares) {
  const sides = [["student", shares(data)], ...(other ? [["shadow", shares(other)]] : [])];
  const rank = data.map((_, i) => i).sort((a, b) => data[b] - data[a]).slice(0, MOST);
  const list = make("div", { className: "classes" });
  rank.forEach((index, place) => {
    const drawn = sides.map(([who, of]) => { const bar = make("i", { className: who }); bar.style.width = `${of[index] * 100}%`; return bar; });
    const label = model.labels.length === data.length ? model.labels[index] : `class ${index}`;
    list.append(make("span", { className: place ? "label" : "label best", textContent: label }), make("span", { className: "bars" }, ...drawn),
      make("span", {}, ...sides.map(([, of]) => make("small", { textContent: `${(of[index] * 100).toFixed(1)} %` }))));
  });
  return [list];
}

function texts(data, other) {
  return [["student", data], ...(other ? [["shadow", other]] : [])].map(([who, values]) => make("p", { className: "values text" },
    make("i", { className: `key ${who}` }), values.join("\n")));
}

function numbers(data, other) {
  return [["student", data], ...(other ? [["shadow", other]] : [])].map(([who, values]) => make("p", { className: "values" },
    make("i", { className: `key ${who}` }),
    values.slice(0, NUMBERS).map(value => typeof value === "number" ? digits(value, 4) : String(value)).join("  "),
    values.length > NUMBERS ? `  and ${values.length - NUMBERS} more` : ""));
}

// -- inputs: each puts its field on the page and gives what reads it as a tensor of one sample ----------------------

const fields = {
  text(form, place) {
    const area = make("textarea", { id: `input-${form.name}`, placeholder: "Type a text" });
    area.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });
    place.append(area);
    return { read: () => ({ shape: [1], data: [area.value] }), clear: () => { area.value = ""; } };
  },

  json(form, place) {
    const zero = form.datatype === "BOOL" ? false : 0;
    const zeros = shape => shape.length ? Array.from({ length: shape[0] }, () => zeros(shape.slice(1))) : zero;
    const fresh = JSON.stringify(zeros(form.shape));
    const area = make("textarea", { id: `input-${form.name}`, value: fresh, spellcheck: false });
    place.append(area);
    const shape = value => Array.isArray(value) ? [value.length, ...(value.length ? shape(value[0]) : [])] : [];
    const read = () => {
      const value = JSON.parse(area.value);
      return { shape: shape(value), data: Array.isArray(value) ? value : [value] };
    };
    return { read, clear: () => { area.value = fresh; } };
  },

  image(form, place) {
    const canvas = make("canvas", { id: `input-${form.name}`, width: form.width, height: form.height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const file = make("input", { type: "file", accept: "image/*", ariaLabel: `A file for ${form.name}` });
    const invert = make("input", { type: "checkbox" });
    let sent = null; // the file itself, where the model reads files and nothing was drawn since
    const blank = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, form.width, form.height); sent = null; file.value = ""; };
    const put = async given => {
      try {
        const image = await createImageBitmap(given);
        blank();
        const scale = Math.max(form.width / image.width, form.height / image.height), [w, h] = [image.width * scale, image.height * scale];
        pen.imageSmoothingQuality = "high";
        pen.drawImage(image, (form.width - w) / 2, (form.height - h) / 2, w, h);
        sent = form.file ? given : null;
        ask();
      } catch {
        file.value = "";
        problem(new Error(`${given.name} is no image that this browser reads.`));
      }
    };
    drawing(canvas, pen, () => { sent = null; });
    file.addEventListener("change", () => { if (file.files.length) put(file.files[0]); });
    invert.addEventListener("change", ask);
    place.addEventListener("dragover", () => canvas.classList.add("over"));
    place.addEventListener("dragleave", () => canvas.classList.remove("over"));
    place.addEventListener("drop", event => {
      canvas.classList.remove("over");
      if (event.dataTransfer.files.length) put(event.dataTransfer.files[0]);
    });
    place.append(canvas, file);
    if (!form.file) place.append(make("label", { className: "check" }, invert, "invert: dark on light"));
    blank();
    return { read: () => form.file ? asFile(canvas, sent) : asPixels(form, pen, invert.checked), clear: blank };
  },
};

function drawing(canvas, pen, began) {
  const at = event => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * canvas.width, (event.clientY - box.top) / box.height * canvas.height]; };
  let last = null;
  const line = event => {
    const next = at(event);
    Object.assign(pen, { lineWidth: Math.max(canvas.width, canvas.height) / 12, lineCap: "round", strokeStyle: "#fff" });
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(next[0] + 0.01, next[1]);
    pen.stroke();
    last = next;
  };
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); began(); last = at(event); line(event); });
  canvas.addEventListener("pointermove", event => { if (last) line(event); });
  canvas.addEventListener("pointerup", () => { if (last) ask(); last = null; });
  canvas.addEventListener("pointercancel", () => { last = null; });
}

async function asFile(canvas, sent) {
  const blob = sent || await new Promise(done => canvas.toBlob(done, "image/png"));
  return { shape: [1], bytes: new Uint8Array(await blob.arrayBuffer()) };
}

function asPixels(form, pen, invert) {
  const { width, height, channels, first, high, datatype } = form;
  const rgba = pen.getImageData(0, 0, width, height).data, whole = datatype.includes("INT"), data = new Array(width * height * channels);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const [red, green, blue] = rgba.subarray(pixel * 4, pixel * 4 + 3);
    const levels = channels === 3 ? [red, green, blue] : [0.299 * red + 0.587 * green + 0.114 * blue];
    levels.forEach((level, channel) => {
      const value = (invert ? 255 - level : level) / 255 * high;
      data[first ? channel * width * height + pixel : pixel * channels + channel] = whole ? Math.round(value) : value;
    });
  }
  return { shape: first ? [1, channels, height, width] : [1, height, width, channels], data };
}

// -- what is served, and how it fares ------------------------------------------------------------------------------

function choose(index) {
  model = told.models[index];
  before = null;
  document.title = `${model.title} · attar`;
  $("title").textContent = model.title;
  $("verdict").textContent = model.properties.gates === "passed" ? model.verdict : model.properties.gates;
  $("verdict").className = `chip ${$("verdict").textContent.replaceAll(" ", "-")}`;
  const { runtime, threads } = model.engine, { batch_rows, batch_runtime, batch_precision } = model.properties;
  $("meta").textContent = [`version ${model.version}`, `${model.properties.precision} on ${runtime}`, `${threads} thread${threads > 1 ? "s" : ""}`,
    ...(batch_rows ? [`from ${batch_rows} samples ${batch_precision} on ${batch_runtime}`] : []), told.shadow ? `shadow: ${told.shadow}` : "no shadow"].join(" · ");
  $("summary").textContent = model.summary;
  unanswered();
  const made = model.forms.map(form => {
    const place = make("div", {}, make("label", { htmlFor: `input-${form.name}`, textContent: form.kind === "image" ? `${form.name}: draw, drop or choose an image` : form.name }));
    const { read, clear } = fields[form.kind](form, place);
    return { place, clear, read: async () => ({ name: form.name, datatype: form.datatype, ...await read() }) };
  });
  inputs = made.map(each => each.read);
  $("inputs").replaceChildren(...made.map(each => each.place));
  $("clear").onclick = () => made.forEach(each => each.clear());
  $("gates").tHead.rows[0].cells[0].textContent = batch_rows ? "calls, and hop" : "hop";
  const calls = gate => !batch_rows ? "" : gate.rows > 1 ? `from ${gate.rows} samples, ` : `below ${batch_rows} samples, `;
  $("gates").tBodies[0].replaceChildren(...model.gates.map(gate => make("tr", {},
    make("th", { textContent: calls(gate) + gate.hop }),
    make("td", { textContent: `${gate.gate.replaceAll("_", " ")}: ${gate.promise}` }),
    make("td", { textContent: gate.against === "absolute" ? "" : gate.against }),
    ...[gate.measured === null ? "" : digits(gate.measured, 4), gate.bounds ? gate.bounds.map(bound => digits(bound, 4)).join(" to ") : "", gate.samples ?? ""]
      .map(textContent => make("td", { className: "n", textContent })),
    make("td", {}, make("span", { className: `chip ${gate.verdict.replaceAll(" ", "-")}`, textContent: gate.verdict })))));
}

/** Prometheus' text: {name, labels, value} of this model. */
function parsed(text) {
  return text.split("\n").flatMap(line => {
    const found = /^(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!found) return [];
    const labels = Object.fromEntries([...found[2].matchAll(/(\w+)="([^"]*)"/g)].map(pair => pair.slice(1)));
    const ours = [model.name, model.title].includes(labels.model) && labels.version === model.version;
    return ours ? [{ name: found[1], labels, value: Number(found[3]) }] : [];
  });
}

/** The upper bound under which a share of the requests was answered, in milliseconds. */
function quantile(buckets, share) {
  const total = buckets.at(-1)?.value;
  return total ? Number(buckets.find(each => each.value >= share * total).labels.le) * 1000 : NaN;
}

function live(metrics, now) {
  const of = (name, more = {}, who = model.name) => metrics.filter(each => each.name === name && each.labels.model === who
    && Object.entries(more).every(([label, value]) => each.labels[label] === value));
  const sum = (...which) => of(...which).reduce((total, each) => total + each.value, 0);
  const total = sum("attar_requests_total"), right = sum("attar_requests_total", { outcome: "ok" });
  const buckets = of("attar_request_seconds_bucket", { phase: "total" });
  const calls = sum("attar_batch_rows_count", {}, model.title);
  const under = share => { const bound = quantile(buckets, share); return Number.isFinite(bound) ? `≤ ${time(bound)}` : "–"; };
  const tiles = [
    ["ready", sum("attar_model_ready") ? "yes" : "no"],
    ["requests", digits(total, 6)],
    ["a second", before ? digits((total - before.total) / (now - before.now) * 1000) : "–"],
    ["not answered", digits(total - right, 6)],
    ["p50 in the server", under(0.5)],
    ["p99 in the server", under(0.99)],
    ["rows of a batch", calls ? digits(sum("attar_batch_rows_sum", {}, model.title) / calls) : "–"],
    ["waiting", digits(sum("attar_queue_requests", {}, model.title), 6)],
  ];
  const several = Object.keys(model.kinds).length > 1;
  for (const { name, labels, value } of metrics)
    if (/^attar_shadow_(correlation|agreement|kdl|cosine|samples)$/.test(name))
      tiles.push([`shadow ${name.slice(13)}${several ? ` · ${labels.output}` : ""}`, digits(value, 4)]);
  before = { total, now };
  $("live").replaceChildren(...tiles.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
}

async function look() {
  try {
    if (!document.hidden && model) {
      live(parsed(await (await call("metrics")).text()), performance.now());
      if (gone) problem();
    }
  } catch (error) { problem(error); }
  setTimeout(look, LIVE);
}

async function open() {
  try {
    told = await (await call("page/models")).json();
    $("token").hidden = true;
    problem();
    $("version").textContent = `attar ${told.version}`;
    if (!told.models.length) throw new Error("Nothing is served at the moment.");
    $("choice").replaceChildren(...told.models.map(each => make("option", { textContent: each.title })));
    $("choice").hidden = told.models.length < 2;
    choose(0);
    $("model").hidden = false;
    if (!looking) look();
    looking = true;
  } catch (error) { problem(error); }
}

for (const event of ["dragover", "drop"]) document.addEventListener(event, each => each.preventDefault()); // a file beside the field opens nothing
$("token").addEventListener("submit", event => { event.preventDefault(); token = $("secret").value.trim(); $("secret").value = ""; open(); });
$("choice").addEventListener("change", () => choose($("choice").selectedIndex));
$("ask").addEventListener("submit", event => { event.preventDefault(); ask(); });
open();
