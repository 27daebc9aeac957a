// What the reader sees of an answer: the picture with boxes and activation map, and words beside.

import { hueOf, inWords, percent, thresholdOf } from "./answer.js";
import { seenPart } from "./picture.js";

const MOST = 5; // labels that are shown unasked
const MARGIN = 0.1; // around a face, as in distill.runtime.faces
const SHARPNESS = 24; // pixels of the overlay for a cell of the map

const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

/** A card in the list: of a picture, or of the webcam where `media` is a video. */
export function createCard(name, media, remove) {
  const element = copyOf("card"), $ = (selector) => element.querySelector(selector);
  $(".picture").prepend(media);
  $(".name").textContent = name;
  $(".remove").ariaLabel = `Remove ${name}`;
  $(".remove").addEventListener("click", remove);
  media.addEventListener("error", () => element.classList.add("unseen"));
  const shape = (width, height) => $(".picture").style.setProperty("--ratio", width / height);
  media.addEventListener("load", () => shape(media.naturalWidth, media.naturalHeight));
  media.addEventListener("resize", () => shape(media.videoWidth, media.videoHeight));

  function wait() {
    element.ariaBusy = "true";
  }

  function fail(message) {
    element.ariaBusy = "false";
    element.classList.add("failed");
    $(".regions").replaceChildren(Object.assign(document.createElement("p"), { className: "verdict", textContent: message }));
    $(".boxes").replaceChildren();
    $(".facts").textContent = "";
    $(".heat").hidden = true;
  }

  /** Returns the answer in one line. */
  function show(answer, model, settings, rate) {
    element.ariaBusy = "false";
    element.classList.remove("failed");
    const words = inWords(answer, model, settings.threshold);
    const title = words.map(({ title }) => title).join("; ") || "No face found";
    const blocks = answer.regions.map((region, i) => regionBlock(region, words[i], model, settings));
    if (!blocks.length) {
      const lines = { verdict: title, note: "To classify the whole picture, do not look for faces." };
      for (const [className, textContent] of Object.entries(lines))
        blocks.push(Object.assign(document.createElement("p"), { className, textContent }));
    }
    keepOpen($(".regions"), blocks);
    $(".boxes").replaceChildren(...answer.regions.map((region, i) => boxOf(region, words[i], answer.size)));
    if (media.tagName === "IMG") media.alt = `${name}: ${title}`;
    drawMaps($(".heat"), answer, model, settings);
    $(".facts").textContent = [...facts(answer, rate), ...mapped(answer, settings)].join(" · ");
    element.dataset.probs = JSON.stringify(answer.regions.map(({ probs }) => probs));
    return title;
  }
  return { element, wait, fail, show };
}

// New blocks in place of the old ones; lists that the reader opened stay open.
function keepOpen(parent, blocks) {
  const open = [...parent.querySelectorAll("details")].map((details) => details.open);
  blocks.forEach((block, i) => {
    const details = block.querySelector("details");
    if (details && open[i]) details.open = true;
  });
  parent.replaceChildren(...blocks);
}

function facts({ size, ms }, rate) {
  const parts = [`${size[0]} × ${size[1]}`, `${milliseconds(ms.total)}`];
  if (ms.model !== undefined) parts[1] += `, of which the model ${milliseconds(ms.model)}`;
  if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} frames/s`);
  return parts;
}

// Which labels the maps are of, where that is not the whole answer.
function mapped({ regions }, { model, why }) {
  const labels = new Set(regions.flatMap(({ map }) => (map ? [map.label] : [])));
  return why && labels.size && model.task === "multi" ? [`map of ${[...labels].join(", ")}`] : [];
}

const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;

function regionBlock(region, words, model, settings) {
  const block = copyOf("region"), $ = (selector) => block.querySelector(selector);
  paint(block, words);
  $(".verdict").textContent = words.title;
  $(".detail").textContent = words.detail;
  $(".detail").hidden = !words.detail;
  const rows = (indices) => indices.map((index) => shareRow(index, region, words, model, settings));
  $("ol.shares").replaceChildren(...rows(words.order.slice(0, MOST)));
  const details = $("details"), rest = words.order.slice(MOST);
  details.hidden = !rest.length;
  $("summary").textContent = `${rest.length} more labels`;
  details.addEventListener("toggle", () => details.lastElementChild.replaceChildren(...(details.open ? rows(rest) : [])));
  return block;
}

function shareRow(index, region, words, model, { threshold }) {
  const row = copyOf("share"), least = thresholdOf(model, index, threshold);
  row.querySelector(".label").textContent = model.names[index];
  row.querySelector(".percent").textContent = percent(region.probs[index]);
  row.style.setProperty("--share", region.probs[index]);
  row.style.setProperty("--least", least);
  row.style.setProperty("--hue", hueOf(index));
  row.classList.toggle("chosen", words.chosen.includes(index));
  row.querySelector(".mark").hidden = least <= 0 || (model.task === "single" && index !== words.likeliest);
  return row;
}

// A class's colour where there is an answer; style.css has those of the other kinds.
function paint(element, words) {
  element.classList.add(words.kind);
  element.style.setProperty("--hue", hueOf(words.chosen[0] ?? words.likeliest));
}

function boxOf(region, words, [width, height]) {
  const box = document.createElement("div"), tag = document.createElement("span");
  const [x, y, w, h] = region.box ?? [0, 0, width, height];
  place(box, [x / width, y / height, w / width, h / height]);
  box.className = region.box ? "box" : "box whole";
  paint(box, words);
  tag.textContent = words.title;
  box.append(tag);
  return box;
}

function place(element, [x, y, w, h]) {
  const { style } = element;
  [style.left, style.top, style.width, style.height] = [x, y, w, h].map((share) => `${100 * share}%`);
}

// The positive part of each region's activation map, where in the picture the model saw it.
function drawMaps(heat, { size: [width, height], regions }, model, { why }) {
  const mapped = regions.filter(({ map }) => map);
  heat.hidden = !why || !mapped.length;
  if (heat.hidden) return;
  const cells = Math.max(...mapped.map(({ map }) => Math.max(...map.shape)));
  const unit = (cells * SHARPNESS) / Math.max(width, height);
  const scale = Math.min(1, Math.max(unit, 256 / Math.max(width, height)));
  [heat.width, heat.height] = [Math.ceil(width * scale), Math.ceil(height * scale)];
  const context = heat.getContext("2d");
  context.imageSmoothingQuality = "high";
  for (const { box, map } of mapped) {
    const crop = box ? withMargin(box, width, height) : [0, 0, width, height];
    const [left, top, w, h] = seenPart({ width: crop[2], height: crop[3] }, model.input_spec);
    const [x, y] = [crop[0] + left, crop[1] + top];
    context.drawImage(heatOf(map), x * scale, y * scale, w * scale, h * scale);
  }
}

// What is cut out around a face, as the service does it.
function withMargin([x, y, w, h], width, height) {
  const [left, top] = [Math.max(0, x - MARGIN * w), Math.max(0, y - MARGIN * h)];
  const right = Math.min(width, x + w + MARGIN * w), bottom = Math.min(height, y + h + MARGIN * h);
  return [left, top, right - left, bottom - top];
}

// Dark violet through orange to yellow: of rising lightness, so that it reads without colour.
const RAMP = [[80, 18, 123], [158, 42, 99], [221, 81, 58], [250, 143, 20], [252, 206, 60]];

function heatOf({ shape: [h, w], values }) {
  const most = Math.max(...values, 1e-6), image = new ImageData(w, h);
  values.forEach((value, i) => {
    const share = Math.max(0, value / most), place = share * (RAMP.length - 1);
    const low = Math.min(Math.floor(place), RAMP.length - 2), part = place - low;
    const colour = RAMP[low].map((from, c) => from + part * (RAMP[low + 1][c] - from));
    image.data.set([...colour, 255 * share ** 0.7], i * 4);
  });
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
