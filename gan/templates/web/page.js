"use strict";
const PER_PAGE = 64, ALL = 3.2;  // ALL: the end of the slider, where nothing is cut off
const GIF_FRAMES = 24;  // from one face to the other; as many back
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const [HEIGHT, WIDTH] = about.program.shape.slice(1);

let studio;
const state = {seed: String(about.seed), first: 0, limit: ALL, label: -1, kept: [], chosen: -1};
let endless = false, playing = false, page = 0;
const counted = {since: 0, faces: 0, firstFace: 0};

const bytesOf = (id) => Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));

/** A face: {seed, index, limit, label, shifts}; its noise, moved along the directions, and class. */
function noiseOf(face) {
  const z = noise(face.seed, face.index, about.nz, about.kind, face.limit < ALL ? face.limit : 0);
  about.directions.forEach((direction, k) => {
    if (face.shifts[k]) direction.forEach((x, i) => { z[i] += face.shifts[k] * x; });
  });
  return z;
}

function classOf(face) {
  const shares = new Float32Array(about.classes.length);
  if (shares.length) shares[face.label < 0 ? face.index % shares.length : face.label] = 1;
  return shares;
}

const joined = (z, shares) => Float32Array.from([...z, ...shares]);
const inputOf = (face) => joined(noiseOf(face), classOf(face));
const nameOf = (face) => `face ${face.index} of seed ${face.seed}`;
const isSame = (a, b) => ["seed", "index", "limit", "label"].every((key) => a[key] === b[key]);

function show(canvas, pixels) {
  if (canvas.width !== WIDTH || canvas.height !== HEIGHT) [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  canvas.getContext("2d").putImageData(new ImageData(pixels, WIDTH, HEIGHT), 0, 0);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const savePng = (canvas, name) => canvas.toBlob((blob) => download(blob, name), "image/png");

// ---- the grid -----------------------------------------------------------------------------------

function makeTile(face, pressed, click) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "face";
  button.append(document.createElement("canvas"));
  button.setAttribute("aria-pressed", pressed);
  button.setAttribute("aria-label", nameOf(face));
  button.title = nameOf(face);
  button.onclick = click;
  return button;
}

const shown = (index) => ({
  seed: state.seed, index, limit: state.limit, label: state.label,
  shifts: about.directions.map(() => 0),
});

async function drawPage() {
  const mine = ++page;
  studio.forget("grid");
  const faces = Array.from({length: PER_PAGE}, (_, i) => shown(state.first + i));
  const tiles = faces.map((face) => {
    const kept = () => state.kept.findIndex((other) => isSame(other, face));
    const tile = makeTile(face, kept() >= 0, () => toggle(face, kept()));
    tile.face = face;
    return tile;
  });
  const grid = $("grid"), old = [...grid.querySelectorAll("canvas")];
  tiles.forEach((tile, i) => {  // until it is drawn, what was there
    if (old[i]) tile.replaceChildren(old[i]);
  });
  grid.replaceChildren(...tiles);
  $("first").value = state.first;
  await Promise.all(faces.map(async (face, i) => {
    const pixels = await studio.draw(inputOf(face), {group: "grid"});
    if (mine !== page) return;
    show(tiles[i].firstChild, pixels);
    count();
  }));
  if (mine !== page) return;
  remember();
  if (endless) {
    state.first += PER_PAGE;
    drawPage();
  } else report(`${PER_PAGE} faces`);
}

function count() {
  const now = performance.now();
  counted.firstFace ||= now;
  counted.since ||= now;
  counted.faces++;
  if (endless && counted.faces % 8 === 0) report(`${counted.faces.toLocaleString("en")} faces`);
}

function report(text) {
  const seconds = (performance.now() - counted.since) / 1000;
  const speed = counted.faces > 8 && seconds > 0 ? ` ${Math.round((counted.faces - 1) / seconds)} faces a second on ${studio.count} ${studio.count > 1 ? "cores" : "core"}.` : "";
  $("status").textContent = `${text} from seed ${state.seed}.${speed} The first was there after ${(counted.firstFace / 1000).toFixed(1)} s.`;
}

function redraw() {
  [counted.since, counted.faces] = [0, 0];
  drawPage();
}

// ---- kept faces ---------------------------------------------------------------------------------

function toggle(face, at) {
  if (at >= 0) drop(at);
  else {
    state.kept.push({...face, shifts: [...face.shifts]});
    state.chosen = state.kept.length - 1;
    showKept(true);
  }
}

function drop(at) {
  state.kept.splice(at, 1);
  state.chosen = Math.min(state.chosen, state.kept.length - 1);
  showKept(true);
}

function showKept(changed) {
  const {kept, chosen} = state;
  $("none-kept").hidden = kept.length > 0;
  $("tools").hidden = kept.length < 1;
  $("walk").hidden = kept.length < 2;
  for (const tile of $("grid").children) {
    tile.setAttribute("aria-pressed", kept.some((face) => isSame(face, tile.face)));
  }
  $("kept").replaceChildren(...kept.map((face, i) => {
    const tile = makeTile(face, i === chosen, () => {
      state.chosen = i;
      showKept(false);
    });
    studio.draw(inputOf(face)).then((pixels) => show(tile.firstChild, pixels));
    return tile;
  }));
  if (changed) {
    for (const id of ["from", "to"]) {
      $(id).replaceChildren(...kept.map((face, i) => new Option(`${face.seed} / ${face.index}`, i)));
    }
    $("from").value = Math.max(0, kept.length - 2);
    $("to").value = kept.length - 1;
  }
  if (kept.length) showChosen();
  if (kept.length > 1) showBetween();
  remember();
}

/** Draw into a canvas; of several calls in a row only the last one counts. */
function latest(canvas) {
  let wanted = null, busy = false;
  return async (input) => {
    wanted = input;
    if (busy) return;
    busy = true;
    while (wanted) {
      const now = wanted;
      wanted = null;
      show(canvas, await studio.draw(now, {urgent: true}));
    }
    busy = false;
  };
}

const drawLarge = latest($("large")), drawBetween = latest($("between"));

function showChosen() {
  const face = state.kept[state.chosen];
  $("large").setAttribute("aria-label", nameOf(face));
  about.directions.forEach((_, k) => {
    $(`direction-${k + 1}`).value = face.shifts[k];
    $(`direction-${k + 1}-value`).textContent = Number(face.shifts[k]).toFixed(1);
  });
  const more = face.shifts.map((x, k) => x ? ` --direction-${k + 1}=${x}` : "").join("")
    + (face.limit < ALL ? ` --trunc=${face.limit}` : "")
    + (about.classes.length && face.label >= 0 ? ` --label=${face.label}` : "");
  const recipe = `${nameOf(face)}: generate --seed=${face.seed} --gen-index=${face.index}${more}`;
  $("recipe").replaceChildren(...recipe.split(" ").flatMap((word) => {  // a flag is not cut at its hyphens
    const part = document.createElement("span");
    part.textContent = word;
    return [part, " "];
  }));
  drawLarge(inputOf(face));
}

function makeSliders() {
  about.directions.forEach((_, k) => {
    const label = document.createElement("label"), text = document.createElement("span");
    label.className = "slider";
    text.textContent = `Direction ${k + 1}`;
    const input = Object.assign(document.createElement("input"), {
      type: "range", min: -about.reach, max: about.reach, step: 0.1, value: 0, id: `direction-${k + 1}`,
    });
    const output = Object.assign(document.createElement("output"), {id: `direction-${k + 1}-value`});
    input.oninput = () => {
      state.kept[state.chosen].shifts[k] = Number(input.value);
      showChosen();
      if (state.kept.length > 1) showBetween();
    };
    input.onchange = () => showKept(false);
    label.append(text, input, output);
    $("sliders").append(label);
  });
}

// ---- walking ------------------------------------------------------------------------------------

function inputBetween(t) {
  const [a, b] = [state.kept[$("from").value], state.kept[$("to").value]];
  const mixed = [classOf(a), classOf(b)];
  return joined(between(noiseOf(a), noiseOf(b), t, about.kind),
    mixed[0].map((x, i) => (1 - t) * x + t * mixed[1][i]));
}

const showBetween = () => drawBetween(inputBetween(Number($("t").value)));

function play(began, offset) {
  if (!playing || state.kept.length < 2) return;
  const phase = ((performance.now() - began) / 3000 + offset) % 2;  // three seconds a way
  $("t").value = phase < 1 ? phase : 2 - phase;
  showBetween();
  requestAnimationFrame(() => play(began, offset));
}

async function saveGif() {
  const steps = Array.from({length: 2 * GIF_FRAMES}, (_, i) => 1 - Math.abs(1 - i / GIF_FRAMES));
  let done = 0;
  const frames = await Promise.all(steps.map(async (t) => {
    const pixels = await studio.draw(inputBetween(t));
    $("gif-status").textContent = `${++done} of ${steps.length} frames`;
    return pixels;
  }));
  const [a, b] = [state.kept[$("from").value], state.kept[$("to").value]];
  const bytes = encodeGif(frames, WIDTH, HEIGHT, 6);
  $("gif-status").textContent = `GIF of ${Math.round(bytes.length / 1024)} KB.`;
  download(new Blob([bytes], {type: "image/gif"}), `walk_${a.index}_${b.index}.gif`);
}

// ---- address, controls, start -------------------------------------------------------------------

function remember() {
  const kept = state.kept.map((f) => [f.seed, f.index, f.limit, f.label, ...f.shifts].join("_"));
  const parts = {seed: state.seed, first: state.first, limit: state.limit, label: state.label, keep: kept.join("~")};
  history.replaceState(null, "", "#" + new URLSearchParams(parts));
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (text, low, high, otherwise) => {
    const value = Number(text);
    return text !== null && text !== "" && value >= low && value <= high ? value : otherwise;
  };
  if (isSeed(given.get("seed") || "")) state.seed = given.get("seed");
  state.first = Math.floor(number(given.get("first"), 0, 2 ** 48, 0));
  state.limit = number(given.get("limit"), 1, ALL, ALL);
  state.label = number(given.get("label"), -1, about.classes.length - 1, -1);
  for (const text of (given.get("keep") || "").split("~").filter(Boolean)) {
    const [seed, index, limit, label, ...shifts] = text.split("_");
    if (!isSeed(seed)) continue;
    state.kept.push({
      seed, index: number(index, 0, 2 ** 48, 0), limit: number(limit, 1, ALL, ALL),
      label: number(label, -1, about.classes.length - 1, -1),
      shifts: about.directions.map((_, k) => number(shifts[k] ?? null, -about.reach, about.reach, 0)),
    });
  }
  state.chosen = state.kept.length - 1;
}

const isSeed = (text) => /^[0-9]{1,19}$/.test(text) && BigInt(text) < 2n ** 63n;

function showLimit() {
  $("limit").value = state.limit;
  $("limit-value").textContent = state.limit < ALL ? state.limit.toFixed(1) : "all";
}

function stop() {
  endless = false;
  $("endless").setAttribute("aria-pressed", "false");
  $("endless").textContent = "Draw until I stop";
}

function listen() {
  $("controls").onsubmit = (event) => event.preventDefault();
  const go = (change) => () => {
    stop();
    change();
    redraw();
  };
  $("next").onclick = go(() => { state.first += PER_PAGE; });
  $("back").onclick = go(() => { state.first = Math.max(0, state.first - PER_PAGE); });
  $("any").onclick = go(() => {
    state.seed = $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    state.first = 0;
  });
  $("seed").onchange = () => {
    if (isSeed($("seed").value)) go(() => { state.seed = $("seed").value; })();
    else $("seed").value = state.seed;
  };
  $("first").onchange = () => {
    if (/^[0-9]{1,14}$/.test($("first").value)) go(() => { state.first = Number($("first").value); })();
    else $("first").value = state.first;
  };
  $("limit").oninput = () => {
    state.limit = Number($("limit").value);
    showLimit();
    redraw();
  };
  $("class").onchange = go(() => { state.label = Number($("class").value); });
  $("endless").onclick = () => {
    if (endless) return stop();
    endless = true;
    $("endless").setAttribute("aria-pressed", "true");
    $("endless").textContent = "Stop";
    redraw();
  };
  $("sheet").onclick = saveSheet;
  $("reset").onclick = () => {
    state.kept[state.chosen].shifts.fill(0);
    showKept(false);
  };
  $("drop").onclick = () => drop(state.chosen);
  $("save").onclick = () => savePng($("large"), `face_${state.kept[state.chosen].seed}_${state.kept[state.chosen].index}.png`);
  $("t").oninput = $("from").onchange = $("to").onchange = showBetween;
  $("play").onclick = () => {
    playing = !playing;
    $("play").setAttribute("aria-pressed", playing);
    $("play").textContent = playing ? "Pause" : "Play";
    play(performance.now(), Number($("t").value));
  };
  $("gif").onclick = saveGif;
}

function saveSheet() {
  const gap = 2, columns = 8, canvas = document.createElement("canvas");
  const tiles = [...$("grid").querySelectorAll("canvas")], rows = Math.ceil(tiles.length / columns);
  canvas.width = columns * (WIDTH + gap) + gap;
  canvas.height = rows * (HEIGHT + gap) + gap;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  tiles.forEach((tile, i) => context.drawImage(tile, gap + i % columns * (WIDTH + gap),
    gap + Math.floor(i / columns) * (HEIGHT + gap)));
  savePng(canvas, `faces_${state.seed}_${state.first}.png`);
}

function start() {
  const bytes = bytesOf("weights"), kernels = bytesOf("kernels");
  if (!WebAssembly.validate(kernels)) throw new Error("this browser has no WebAssembly SIMD; any of 2023 or later has it");
  const weights = about.program.half ? fromHalf(new Uint16Array(bytes.buffer)) : new Float32Array(bytes.buffer);
  const cores = Math.max(1, Math.min(8, navigator.hardwareConcurrency || 2));
  studio = new Studio($("engine").textContent, about.program, weights, kernels, cores);
  makeSliders();
  recall();
  $("seed").value = state.seed;
  if (about.classes.length) {
    $("class-label").hidden = false;
    $("class").append(new Option("in turn", -1), ...about.classes.map((name, i) => new Option(name, i)));
    $("class").value = state.label;
  }
  showLimit();
  listen();
  showKept(true);
  redraw();
}

try {
  start();
} catch (error) {
  $("failed").hidden = false;
  $("failed").textContent = `Cannot draw: ${error.message}.`;
  $("status").textContent = "";
  throw error;
}
