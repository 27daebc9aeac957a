// The webcam: a card whose frames are looked at as fast as answers come, one at a time.

import { Trouble } from "./answer.js";
import { createCard } from "./view.js";

const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the settings of this site.",
  NotFoundError: "There is no camera here.",
  NotReadableError: "The camera cannot be read. Another program may be using it.",
};
const MEMORY = 0.8; // of the mean time between answers
const UNSEEN = 250; // milliseconds between frames that nobody sees
const PAUSE = 2000; // milliseconds at least between what a screen reader is told

/** Starts the webcam; throws `Trouble` where there is none. `stopped(error or null)` is its end. */
export async function startWebcam(page, list, stopped) {
  const stream = await openStream();
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: stream });
  video.ariaLabel = "Webcam";
  const card = createCard("Webcam", video, () => stop(null));
  card.element.querySelector(".remove").ariaLabel = "Stop the webcam";
  card.element.classList.add("live");
  list.prepend(card.element);
  let running = true, last = null;

  function stop(error) {
    if (!running) return;
    running = false;
    for (const track of stream.getTracks()) track.stop();
    card.element.remove();
    stopped(error);
  }

  const redraw = () => last && card.show(last.answer, last.model, page.settings, last.rate);

  async function run() {
    const tell = teller(page);
    await video.play();
    let mean = 0, before = performance.now();
    while (running) {
      await nextFrame(video);
      if (!running) return;
      const { model } = page.settings;
      const answer = await page.engine.classify(grab(video), { ...page.settings });
      const now = performance.now();
      mean = mean ? MEMORY * mean + (1 - MEMORY) * (now - before) : now - before;
      before = now;
      last = { answer, model, rate: 1000 / mean };
      if (running) tell(redraw());
    }
  }

  stream.getTracks()[0].addEventListener("ended", () => stop(new Trouble("The camera was taken away.")));
  run().catch(stop);
  return { redraw, stop: () => stop(null) };
}

async function openStream() {
  if (!navigator.mediaDevices) throw new Trouble("Browsers open a camera only for https:// and localhost.");
  const video = { width: { ideal: 640 }, height: { ideal: 480 } };
  try {
    return await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    throw new Trouble(REASONS[error.name] ?? `The camera does not start: ${error.message}`);
  }
}

// Tells what is seen when that changes, and not at each frame.
function teller(page) {
  let last = "", at = 0;
  return (title) => {
    const labels = title.replace(/[\d.]+ %/g, ""), now = performance.now();
    if (labels === last || now - at < PAUSE) return;
    [last, at] = [labels, now];
    page.tell(`Webcam: ${title}`);
  };
}

// The next frame that is shown; of a video that is out of sight, whatever there is after a while.
const nextFrame = (video) => new Promise((resume) => {
  video.requestVideoFrameCallback?.(resume);
  setTimeout(resume, video.requestVideoFrameCallback ? UNSEEN : 0);
});

function grab(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(video, 0, 0);
  return canvas;
}
