// The list of hits. Whatever comes from a manifest is set as text, never as markup.

import { on } from "./plane.js";

export const round = (value) => String(Number(value.toFixed(3)));

function made(name, kind, text = "") {
  const element = document.createElement(name);
  element.className = kind;
  element.textContent = text;
  return element;
}

// Fills `list`; `heard` are the seconds that the encoder heard of a recording at most, `onHit(rank, chosen)` is told
// what is pointed at.
export function show(list, hits, heard, onHit) {
  list.replaceChildren(...hits.map((hit, place) => item(hit, place + 1, heard, onHit)));
}

export function light(list, rank) {
  for (const [place, hit] of [...list.children].entries()) hit.classList.toggle("lit", place + 1 === rank);
}

function item(hit, rank, heard, onHit) {
  const element = made("li", "hit");
  element.id = `hit-${rank}`;
  element.tabIndex = -1;
  const words = made("div", "words");
  words.append(made("span", "id", hit.id), " ");
  if (hit.trained_on) words.append(made("span", "trained", "trained on"));
  words.append(facts(hit), made("div", "path", hit.path));
  element.append(made("div", "rank", rank), words, player(hit, rank, heard));
  for (const kind of ["mouseenter", "focusin", "click"]) element.addEventListener(kind, () => onHit(rank, false));
  return element;
}

function facts(hit) {
  const line = made("div", "facts");
  const similarity = made("span", "", "similarity ");
  similarity.append(made("span", "similarity", hit.similarity.toFixed(3)));
  line.append(similarity);
  for (const name of ["valence", "arousal"]) {
    if (hit[name] !== null) line.append(made("span", name, `${name} ${round(hit[name])}`));
  }
  if (!on(hit)) line.append(made("span", "off", "not on the plane"));
  for (const name of ["emotion", "speaker", "split"]) {
    if (hit[name]) line.append(made("span", hit[name].length > 30 ? `${name} long` : name, hit[name]));
  }
  return line;
}

// The length stands beside it, since nothing is fetched, and on the server nothing decoded, before it plays.
function player(hit, rank, heard) {
  const holder = made("div", "player");
  if (hit.seconds !== null) {
    const length = hit.seconds < heard ? `${hit.seconds.toFixed(1)} s` : `${heard} s or more`;
    holder.append(made("span", "length", length));
  }
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.preload = "none";
  audio.src = `audio/${hit.row}`;
  audio.setAttribute("aria-label", `Hit ${rank}, ${hit.id}`);
  audio.addEventListener("error", () => explain(audio, holder), { once: true });
  holder.append(audio);
  return holder;
}

// A player says nothing of why it plays nothing; the server does.
async function explain(audio, holder) {
  let why = "cannot be played";
  try {
    const answer = await fetch(audio.src);
    if (!answer.ok) why = (await answer.json()).error;
  } catch {
    why = "the server does not answer";
  }
  holder.append(made("p", "why", why));
}
