// Pictures that were chosen, dropped or pasted: each a card, asked about a few at a time.

import { Trouble } from "./answer.js";
import { TokenNeeded } from "./remote.js";
import { createCard } from "./view.js";

/** Keeps the list of pictures. `page` has the engine and the settings, and tells the reader. */
export function keepPictures(page, list) {
  const entries = new Set(); // { card, file, name, waiting, answer, model, title, error }
  let running = 0;

  function add(files) {
    const added = files.map((file) => {
      const image = new Image(), name = file.name || "Pasted picture";
      image.src = URL.createObjectURL(file);
      image.alt = name;
      const entry = { file, name, waiting: true, answer: null };
      entry.card = createCard(name, image, () => remove(entry));
      entries.add(entry);
      return entry;
    });
    list.prepend(...added.map(({ card }) => card.element));
    askAgain(({ waiting }) => waiting);
  }

  function remove(entry) {
    const { element } = entry.card;
    const next = element.nextElementSibling ?? element.previousElementSibling;
    entries.delete(entry);
    URL.revokeObjectURL(element.querySelector("img").src);
    element.remove();
    page.emptied(next?.querySelector(".remove"));
  }

  /** Asks about pictures whose answers are missing, or no longer to what is asked. */
  function askAgain(which) {
    for (const entry of entries) if (which(entry)) Object.assign(entry, { waiting: true }).card.wait();
    page.changed();
    work();
  }

  function work() {
    for (const entry of entries) {
      if (running >= page.engine.atOnce) break;
      if (entry.waiting) ask(entry).finally(() => (work(), running || sumUp()));
    }
    const left = [...entries].filter(({ waiting }) => waiting).length + running;
    if (left) page.tell(left === 1 ? "Looking at the picture …" : `Looking at ${left} pictures …`);
  }

  async function ask(entry) {
    entry.waiting = false;
    running += 1;
    const { model } = page.settings;
    try {
      const answer = await page.engine.classify(entry.file, { ...page.settings });
      if (!entry.waiting) show(Object.assign(entry, { answer, model, error: null }));
    } catch (error) {
      if (error instanceof TokenNeeded) page.askForToken(error);
      const words = error instanceof Trouble ? error.message : `This did not work: ${error.message}`;
      Object.assign(entry, { answer: null, error: words }).card.fail(words);
    } finally {
      running -= 1;
    }
  }

  function show(entry) {
    entry.title = entry.card.show(entry.answer, entry.model, page.settings);
  }

  function sumUp() {
    const all = [...entries], failed = all.filter(({ error }) => error);
    const words = ({ name, error, title }) => `${name}: ${error ?? title}`;
    if (!all.length || page.lacksToken()) return;
    if (all.length === 1) return page.tell(words(all[0]), failed.length > 0);
    const rest = failed.length > 1 ? `${failed.length} have none.` : failed.map(words)[0] ?? "";
    page.tell(`${all.length - failed.length} of ${all.length} pictures have an answer. ${rest}`.trim(), failed.length > 0);
  }

  return {
    add, askAgain,
    redraw: () => [...entries].filter(({ answer }) => answer).forEach(show),
    removeAll: () => [...entries].forEach(remove),
    get size() { return entries.size; },
  };
}
