// The page: what the reader operates, and the engine that answers. What was chosen is in
// `page.settings`; nothing is stored.

import { percent, thresholdOf } from "./answer.js";
import { startWebcam } from "./camera.js";
import { openLocal } from "./local.js";
import { keepPictures } from "./pictures.js";
import { TokenNeeded, openRemote, request } from "./remote.js";

const $ = (id) => document.getElementById(id);
const page = {
  engine: null,
  settings: { model: null, threshold: null, why: true, faces: false },
  tell, changed, emptied, askForToken,
  lacksToken: () => !$("token-form").hidden,
};
const pictures = keepPictures(page, $("cards"));
let spec, webcam = null, token = "";

function tell(message, failed = false) {
  $("status").textContent = message;
  $("status").classList.toggle("failed", failed);
}

function changed() {
  $("empty").hidden = $("cards").childElementCount > 0;
  $("clear").hidden = pictures.size < 2;
}

// A card was removed: the focus goes on to the next, if there is one.
function emptied(next) {
  (next ?? $("file")).focus();
  changed();
}

function redraw() {
  pictures.redraw();
  webcam?.redraw();
}

// ---- Pictures and the webcam

function addPictures(files) {
  if (page.settings.model && files.length) pictures.add([...files]);
}

async function toggleWebcam() {
  if (webcam) return webcam.stop();
  $("camera").disabled = true;
  try {
    webcam = await startWebcam(page, $("cards"), webcamStopped);
    $("camera").textContent = "Stop the webcam";
    tell("The webcam is on.");
  } catch (error) {
    tell(error.message, true);
  }
  $("camera").disabled = false;
  changed();
}

function webcamStopped(error) {
  webcam = null;
  $("camera").textContent = "Start the webcam";
  $("camera").focus();
  changed();
  if (error instanceof TokenNeeded) askForToken(error);
  else tell(error ? error.message : "The webcam is off.", error !== null);
}

// ---- Settings

function setThreshold(value) {
  page.settings.threshold = value;
  showThreshold();
  redraw();
}

function showThreshold() {
  const { model, threshold } = page.settings;
  const own = model.names.map((_, index) => thresholdOf(model, index, null));
  const [least, most] = [Math.min(...own), Math.max(...own)];
  if (threshold === null) $("threshold").value = own.reduce((sum, value) => sum + value, 0) / own.length;
  const range = least === most ? percent(least, 0) : `${percent(least, 0)} to ${percent(most, 0)}`;
  showValue("threshold", threshold === null ? range : percent(threshold, 0));
  $("shipped").hidden = threshold === null;
}

function showValue(slider, text) {
  $(`${slider}-value`).value = $(slider).ariaValueText = text;
}

function setOpacity() {
  showValue("opacity", percent($("opacity").value, 0));
  $("cards").style.setProperty("--opacity", $("opacity").value);
}

function setWhy() {
  page.settings.why = $("why").checked;
  $("opacity").disabled = !page.settings.why;
  redraw();
  pictures.askAgain(({ answer }) => page.settings.why && answer?.regions.some(({ map }) => !map));
}

function setModel(model) {
  Object.assign(page.settings, { model, threshold: null });
  $("threshold").disabled = false;
  $("why-setting").hidden = !model.outputs.includes("cam");
  $("about").textContent = about(model);
  showThreshold();
  pictures.askAgain(() => true);
}

function about({ name, names, precision, metrics, task, license }) {
  const [measure, score] = task === "multi" ? ["mAP", metrics?.map] : ["top-1", metrics?.top1];
  const labels = names.length === 1 ? "1 label" : `${names.length} labels`;
  const scored = typeof score === "number" && `${measure} ${score.toFixed(1)} % of ${metrics.n} validation images`;
  return [name, labels, scored, precision, license].filter(Boolean).join(" · ");
}

// ---- Engines

async function openEngine() {
  if (spec.engine === "server") {
    page.engine = openRemote(() => token);
    $("privacy").textContent = "Pictures are sent to the service that this page came from, and to nobody else.";
    tell("Ready.");
  } else {
    $("privacy").textContent = "Pictures stay on this device.";
    await openDevice(new URLSearchParams(location.search).get("device") ?? "wasm");
  }
}

async function openDevice(wanted) {
  let device = spec.devices.includes(wanted) ? wanted : "wasm", note = "";
  if (device !== wanted) note = `This page was made without ${wanted}: it runs on the processor.`;
  tell("Loading …");
  const before = page.engine;
  try {
    page.engine = await openLocal(spec, device);
  } catch (error) {
    if (device === "wasm") throw error;
    note = `${error.message}: it runs on the processor.`;
    page.engine = await openLocal(spec, (device = "wasm"));
  }
  before?.close();
  $("device").value = document.body.dataset.device = device;
  tell(note || "Ready.", note !== "");
  page.engine.check().then(showCheck, ({ message }) => { $("check").textContent = `The check did not run: ${message}`; });
}

function showCheck(check) {
  $("check").textContent = check.passed
    ? `Checked here: ${check.n} golden pictures give the same pixels and probabilities.`
    : `Does NOT give the golden answers here: pixels differ by ${check.pixels}, probabilities by ${check.prob.toFixed(4)}.`;
  $("check").classList.toggle("failed", !check.passed);
  document.body.dataset.check = JSON.stringify(check);
}

// ---- Tokens

function askForToken(error) {
  $("token-form").hidden = false;
  tell(error.message, true);
  $("token").focus();
}

async function useToken(event) {
  event.preventDefault();
  token = $("token").value;
  $("token").value = "";
  $("token-form").hidden = true;
  tell("Ready.");
  if (page.engine) pictures.askAgain(({ answer }) => !answer);
  else await start();
}

// ---- From here on the page lives

function listen() {
  const on = (id, event, action) => $(id).addEventListener(event, action);
  on("file", "change", ({ target }) => {
    addPictures(target.files);
    target.value = ""; // so that the same file may be chosen again
  });
  on("camera", "click", toggleWebcam);
  on("clear", "click", () => { pictures.removeAll(); tell("All pictures are removed."); });
  on("token-form", "submit", useToken);
  on("model", "change", ({ target }) => setModel(spec.models[target.selectedIndex]));
  on("device", "change", ({ target }) => openDevice(target.value).then(() => pictures.askAgain(() => true), cannotStart));
  on("threshold", "input", ({ target }) => setThreshold(Number(target.value)));
  on("shipped", "click", () => { setThreshold(null); $("threshold").focus(); });
  on("why", "change", setWhy);
  on("opacity", "input", setOpacity);
  on("faces", "change", ({ target }) => { page.settings.faces = target.checked; pictures.askAgain(() => true); });
  addEventListener("paste", ({ clipboardData }) => addPictures(clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    addPictures(event.dataTransfer.files);
  });
}

function cannotStart(error) {
  if (error instanceof TokenNeeded) askForToken(error);
  else tell(`Cannot start: ${error.message}`, true);
}

async function start() {
  try {
    spec = await (await request("spec.json", {}, () => token)).json();
    $("model").replaceChildren(...spec.models.map(({ name }) => new Option(name)));
    $("model-setting").hidden = spec.models.length < 2;
    $("device-setting").hidden = (spec.devices ?? []).length < 2;
    $("faces-setting").hidden = !spec.faces;
    await openEngine();
    setModel(spec.models[0]);
    $("file").disabled = $("camera").disabled = false;
  } catch (error) {
    cannotStart(error);
  }
}

$("unserved").remove();
$("app").hidden = false;
$("settings").open = matchMedia("(min-width: 56rem)").matches;
listen();
setOpacity();
await start();
