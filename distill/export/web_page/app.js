// A shipped ONNX file in the browser: decodes, resizes as the file was verified, runs, shows.
// Where onnxruntime-web comes from is `runtime` in spec.json, and nowhere else.

const $ = (id) => document.getElementById(id);
const spec = await (await fetch("spec.json")).json();
const { height, width } = spec.input_spec;

async function openSession() {
  const base = new URL(spec.runtime, document.baseURI).href;
  const ort = await import(base + "ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = base;
  const session = await ort.InferenceSession.create("model.onnx");
  return { ort, session };
}

// RGBA pixels of a picture, upright, colours as they are stored.
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";  // on which transparent pictures lie
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { data, width: bitmap.width, height: bitmap.height };
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2);
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => (Math.abs(x) < 2 ? cubic(Math.abs(x)) : 0)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// Weights are integers of this unit, as in Pillow: so ties are rounded as there.
const ONE = 2 ** 22;
const roundAway = (x) => Math.trunc(x + Math.sign(x) * 0.5);
const toByte = (sum) => Math.floor(sum / ONE + 0.5); // the array clamps it

// For each output position the first input it is made of, and their weights. As Pillow does it:
// where the picture shrinks, the filter is as much wider, so that nothing is skipped.
function contributions(from, to) {
  const [reach, filter] = FILTERS[spec.input_spec.interpolation];
  const scale = from / to, stretch = Math.max(scale, 1), support = reach * stretch;
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const raw = [];
    for (let x = first; x < last; x++) raw.push(filter((x - centre + 0.5) / stretch));
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: raw.map((weight) => roundAway((weight / total) * ONE)) };
  });
}

// Horizontally, then vertically; each pass rounds to 8 bits.
function resample(picture, toWidth, toHeight) {
  const wide = new Uint8ClampedArray(toWidth * picture.height * 3);
  contributions(picture.width, toWidth).forEach(({ first, weights }, x) => {
    for (let y = 0; y < picture.height; y++)
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++)
          sum += weights[k] * picture.data[(y * picture.width + first + k) * 4 + c];
        wide[(y * toWidth + x) * 3 + c] = toByte(sum);
      }
  });
  const data = new Uint8ClampedArray(toWidth * toHeight * 3);
  contributions(picture.height, toHeight).forEach(({ first, weights }, y) => {
    for (let i = 0; i < toWidth * 3; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * wide[(first + k) * toWidth * 3 + i];
      data[y * toWidth * 3 + i] = toByte(sum);
    }
  });
  return data;
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// RGB of the model's size: both sides scaled, or the shorter one and the centre cut out.
function toPixels(picture) {
  if (spec.input_spec.resize === "squash") return resample(picture, width, height);
  const side = roundHalfEven(height / spec.input_spec.crop_pct);
  const ratio = side / Math.min(picture.width, picture.height);
  const w = Math.max(width, roundHalfEven(picture.width * ratio));
  const h = Math.max(height, roundHalfEven(picture.height * ratio));
  const whole = resample(picture, w, h);
  const left = Math.floor((w - width) / 2), top = Math.floor((h - height) / 2);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * w + left) * 3;
    data.set(whole.subarray(start, start + width * 3), y * width * 3);
  }
  return data;
}

async function classify({ ort, session }, pixels) {
  const image = new ort.Tensor("uint8", new Uint8Array(pixels), [1, height, width, 3]);
  const outputs = await session.run({ image });
  return { prob: outputs.prob.data, cam: outputs.cam };
}

// As `Predictor` decides: the likeliest class, or all that reach their thresholds; or none.
function decide(prob) {
  const order = [...prob.keys()].sort((a, b) => prob[b] - prob[a]);
  const fallback = spec.task === "multi" ? 0.5 : 0;
  const reaches = (i) => prob[i] >= Math.fround(spec.thresholds[spec.names[i]] ?? fallback);
  return { order, chosen: (spec.task === "multi" ? order : order.slice(0, 1)).filter(reaches) };
}

function showAnswer(prob) {
  const { order, chosen } = decide(prob);
  const percent = (i) => `${(100 * prob[i]).toFixed(1)} %`;
  $("answer").textContent = chosen.length
    ? chosen.map((i) => `${spec.names[i]} ${percent(i)}`).join(", ")
    : `No label is confident, likeliest ${spec.names[order[0]]} ${percent(order[0])}`;
  $("probs").replaceChildren(...order.slice(0, 10).map((i) => {
    const row = document.createElement("li");
    row.style.setProperty("--share", percent(i).replace(" ", ""));
    const cell = (textContent) => Object.assign(document.createElement("span"), { textContent });
    row.append(cell(spec.names[i]), cell(percent(i)));
    return row;
  }));
  return chosen[0] ?? order[0];
}

function toCanvas(pixels, w, h, colour) {
  const image = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) image.data.set(colour(i), i * 4);
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// What the model was given and, laid over it, the positive part of the class's activation map.
function draw(pixels, cam, label) {
  const view = $("view"), context = view.getContext("2d");
  const seen = toCanvas(pixels, width, height, (i) => [...pixels.subarray(i * 3, i * 3 + 3), 255]);
  context.drawImage(seen, 0, 0, view.width, view.height);
  if (!cam || !$("overlay").checked) return;
  const [, , h, w] = cam.dims;
  const map = cam.data.subarray(label * h * w, (label + 1) * h * w);
  const most = Math.max(...map, 1e-6);
  const heat = toCanvas(map, w, h, (i) => [255, 40, 0, 170 * Math.max(0, map[i] / most)]);
  context.drawImage(heat, 0, 0, view.width, view.height);
}

// Golden vectors: pictures whose pixels and probabilities were computed where the file was made.
async function selfCheck(model) {
  const found = { pixels: 0, prob: 0, n: 0 };
  for (const { picture, pixels, prob } of await (await fetch("golden.json")).json()) {
    const blobs = await Promise.all([picture, pixels].map(async (url) => (await fetch(url)).blob()));
    const ours = toPixels(await decode(blobs[0]));
    const theirs = (await decode(blobs[1])).data.filter((_, i) => i % 4 < 3);
    theirs.forEach((value, i) => { found.pixels = Math.max(found.pixels, Math.abs(value - ours[i])); });
    const answer = await classify(model, theirs);
    prob.forEach((p, i) => { found.prob = Math.max(found.prob, Math.abs(p - answer.prob[i])); });
    found.n += 1;
  }
  found.passed = found.pixels <= 1 && found.prob <= spec.tolerance;
  return found;
}

function about(check) {
  const score = spec.task === "multi" ? `mAP ${spec.metrics.map?.toFixed(2)}` : `top-1 ${spec.metrics.top1?.toFixed(2)}`;
  $("about").textContent =
    `${spec.names.length} classes, ${spec.precision}, ${score} % on ${spec.metrics.n} validation images. ` +
    (check.passed
      ? `Checked here: ${check.n} golden pictures give the same pixels and probabilities.`
      : `Does NOT give the golden answers here: pixels differ by ${check.pixels}, probabilities by ${check.prob.toFixed(4)}.`);
  document.body.dataset.check = JSON.stringify(check);
}

async function main() {
  const model = await openSession();
  let last = null;
  const show = () => last && draw(last.pixels, last.cam, last.label);
  const open = async (blob) => {
    const pixels = toPixels(await decode(blob));
    const { prob, cam } = await classify(model, pixels);
    $("result").hidden = false;
    last = { pixels, cam, label: showAnswer(prob) };
    show();
    document.body.dataset.prob = JSON.stringify([...prob]);
  };
  const attempt = (blob) =>
    open(blob).catch((error) => { $("answer").textContent = `Cannot read this picture: ${error.message}`; });
  $("file").addEventListener("change", (event) => event.target.files[0] && attempt(event.target.files[0]));
  $("overlay").addEventListener("change", show);
  const drop = $("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) attempt(event.dataTransfer.files[0]);
  });
  $("answer").textContent = "Ready.";
  about(await selfCheck(model));
}

main().catch((error) => { $("answer").textContent = `Cannot start: ${error.message}`; });
